"""Colours of experts, in films as on the page (``page/draw.js``)."""

#: Okabe and Ito's, which all readers can tell apart, and a grey.
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999",
)  # fmt: skip

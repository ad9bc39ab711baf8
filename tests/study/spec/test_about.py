import pytest

from sb3_moe.study.spec.about import About
from sb3_moe.study.spec.grid import PRESETS, load_study, read_study

PLAIN = "name: mine\ngames: [Breakout]\narchitectures: [dense]\nsteps_per_task: 8192\n"


def test_a_study_says_of_itself_what_its_configuration_can_not(tmp_path):
    text = PLAIN + "about: {title: 'Why?', notes: [One., Two.]}"
    assert read_study(text, tmp_path).about == About(title="Why?", notes=("One.", "Two."))
    assert read_study(PLAIN, tmp_path).about == About()


def test_studies_can_share_the_words_of_a_file(tmp_path):
    (tmp_path / "words.yaml").write_text("title: Why?")
    assert read_study(PLAIN + "about: words.yaml", tmp_path).about == About(title="Why?")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("none.yaml", "^`about` must be a mapping, or a file of one: .*none.yaml"),
        ("list.yaml", r"^`about` must be a mapping, or a file of one, got \['a'\] in .*list.yaml"),
        ("bad.yaml", "^`about` must be a mapping, or a file of one: the YAML can't be read"),
        ("3", "^`about` must be a mapping, got 3$"),
        ("{titel: x}", "^there is no entry `about.titel`; did you mean `title`"),
        ("{notes: One.}", "^`about.notes` must be a list, got 'One.'$"),
    ],
)
def test_words_that_can_not_be_read_are_named(about, message, tmp_path):
    (tmp_path / "list.yaml").write_text("[a]")
    (tmp_path / "bad.yaml").write_text("[a")
    with pytest.raises(ValueError, match=message):
        read_study(PLAIN + f"about: {about}", tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_says_what_it_asks(preset):
    about = load_study(preset).about
    assert about.title.endswith("?")
    assert "MinAtar" in about.introduction

"""What sb3-contrib's own tests ask of a policy: the rows of the table."""

from __future__ import annotations

from tables import Behaviour

BEHAVIOURS = {
    "entropy": Behaviour("run", "learns with the entropy coefficient fixed or learned"),
    "critics": Behaviour("run", "TQC and CrossQ learn with any number of critics"),
    "quantiles": Behaviour("run", "QRDQN and TQC learn with any number of quantiles"),
    "gSDE": Behaviour("run", "learns with gSDE, and draws its noise anew"),
    "n steps": Behaviour("run", "learns from returns of several steps"),
    "warm-up": Behaviour("run", "CrossQ's warm-up reaches every BatchRenorm"),
    "subsampling": Behaviour("run", "TRPO learns from a part of its rollout, whatever its actions"),
    "several environments": Behaviour("run", "learns off-policy from several environments"),
    "advantages": Behaviour("run", "MaskablePPO learns with advantages normalised or not"),
    "parameters": Behaviour(
        "save_load", "`get_parameters`, `set_parameters`: whole, in part, and refused where wrong"
    ),
    "model": Behaviour("save_load", "`save`, `load` and learn on: same weights, same actions"),
    "set_env": Behaviour("save_load", "learns on in another environment"),
    "exclude": Behaviour("save_load", "leaves out and puts in what a file holds"),
    "replay": Behaviour("save_load", "saves, loads and extends its replay buffer"),
    "policy": Behaviour("save_load", "`policy.save`, `policy.load`: same weights, same actions"),
    "coefficient": Behaviour("save_load", "keeps the entropy coefficient in a file"),
    "one key": Behaviour("dict_env", "a Dict of one vector gives the policy of that vector"),
    "keys": Behaviour("dict_env", "takes a Dict of a picture, a vector and a number"),
    "stacked keys": Behaviour("dict_env", "takes a Dict of stacked frames"),
    "normalised keys": Behaviour("dict_env", "takes a Dict of which some keys are normalised"),
    "pictures": Behaviour("cnn", "encodes pictures; the same actions from a file"),
    "shared": Behaviour("cnn", "shares its features extractor or not, in target networks too"),
    "features_dim": Behaviour("cnn", "puts a layer of `features_dim` behind its encoder"),
    "scaled": Behaviour("cnn", "takes scaled pictures with `normalize_images=False`"),
    "seed": Behaviour("deterministic", "does the same twice with the same seed"),
    "identity": Behaviour("identity", "learns to say what it sees"),
    "masks": Behaviour("invalid_actions", "does nothing that is masked, whatever its actions"),
    "masks learned": Behaviour("invalid_actions", "learns with masks what it can't without"),
    "no masks": Behaviour("invalid_actions", "learns and is evaluated without masks, if told so"),
    "masks of many": Behaviour("invalid_actions", "learns and is evaluated in several at once"),
    "masked callbacks": Behaviour("invalid_actions", "runs MaskableEvalCallback and its callbacks"),
    "masked pictures": Behaviour("invalid_actions", "learns from pictures and Dicts with masks"),
    "distribution": Behaviour("distributions", "masks scale up what is left, and come off again"),
    "LSTMs": Behaviour("lstm", "learns with any arrangement of LSTMs, of every observation"),
    "actions of two axes": Behaviour("lstm", "recurrent policies take actions of two axes"),
    "memory": Behaviour("lstm", "remembers what it saw"),
    "no hidden layer": Behaviour("lstm", "takes a `net_arch` without a hidden layer"),
    "own extractor": Behaviour(
        "train_eval_mode", "takes an extractor of the user's own, with batch norm and dropout"
    ),
    "batch norm in targets": Behaviour(
        "train_eval_mode", "copies running statistics to target networks, whatever `tau`"
    ),
}

"""What SB3's own tests ask of a policy."""

from __future__ import annotations

from tables import Behaviour

BEHAVIOURS = {
    "action noise": Behaviour("run", "learns with noise on its actions, of each kind"),
    "advantages": Behaviour("run", "learns with advantages normalised or not"),
    "clipped values": Behaviour("run", "learns with PPO's values clipped or not"),
    "entropy": Behaviour("run", "learns with SAC's entropy coefficient fixed or learned"),
    "critics": Behaviour("run", "learns with any number of critics"),
    "train_freq": Behaviour("run", "learns every so many steps or episodes, after loading too"),
    "several environments": Behaviour("run", "learns off-policy from several environments"),
    "one row": Behaviour("run", "learns from a batch of one row"),
    "parameters": Behaviour(
        "save_load", "`get_parameters`, `set_parameters`: whole, in part, and refused where wrong"
    ),
    "model": Behaviour("save_load", "`save`, `load` and learn on: same weights, same actions"),
    "compiled": Behaviour("save_load", "saves and loads after `torch.compile`"),
    "set_env": Behaviour("save_load", "changes its environment, and keeps or resets its counter"),
    "exclude": Behaviour("save_load", "leaves out, puts in and replaces what a file holds"),
    "coefficient": Behaviour("save_load", "keeps SAC's entropy coefficient in a file"),
    "pictures from a file": Behaviour("save_load", "goes on from a file with pictures"),
    "replay": Behaviour("save_load", "saves and loads its replay buffer, a thrifty one too"),
    "policy": Behaviour("save_load", "`policy.save`, `policy.load`: same weights, same actions"),
    "policy with gSDE": Behaviour("save_load", "the same with gSDE"),
    "part": Behaviour(
        "save_load",
        "an actor or a Q network saved alone stays what it was: class, options, actions",
    ),
    "critic": Behaviour("save_load", "critics saved alone stay what they were"),
    "open file": Behaviour("save_load", "saves to a path, a string or an open file, and closes it"),
    "schedule": Behaviour("save_load", "keeps a learning rate that is a function"),
    "default net_arch": Behaviour("save_load", "takes `net_arch=None` for the default"),
    "predict": Behaviour("predict", "predicts for one observation and for several"),
    "guesses": Behaviour("predict", "DQN explores by guessing, for one observation and several"),
    "own space": Behaviour("predict", "takes subclasses of spaces"),
    "mixed up": Behaviour("predict", "says so if given what `env.reset()` of Gymnasium returns"),
    "seed": Behaviour("deterministic", "does the same twice with the same seed"),
    "net_arch": Behaviour("custom_policy", "takes any number and width of hidden layers"),
    "no hidden layer": Behaviour("custom_policy", "takes a `net_arch` without a hidden layer"),
    "optimiser": Behaviour("custom_policy", "takes another optimiser and its arguments"),
    "goals": Behaviour("dict_env", "learns on-policy in an environment of goals"),
    "one key": Behaviour("dict_env", "a Dict of one vector gives the policy of that vector"),
    "keys": Behaviour("dict_env", "takes a Dict of a picture, a vector and a number"),
    "stacked keys": Behaviour("dict_env", "takes a Dict of stacked frames"),
    "normalised keys": Behaviour("dict_env", "takes a Dict of which some keys are normalised"),
    "nested": Behaviour("dict_env", "refuses Dicts in Dicts as SB3 does"),
    "observations": Behaviour("spaces", "takes discrete and binary observations"),
    "actions": Behaviour("spaces", "takes every action space of its algorithm, refuses others"),
    "gSDE of many": Behaviour("spaces", "gSDE with actions of two axes, in the warm-up too"),
    "float64": Behaviour("spaces", "takes float64 and answers in the environment's type"),
    "own extractor": Behaviour(
        "train_eval_mode", "takes a features extractor of the user's own, with batch norm"
    ),
    "batch norm in targets": Behaviour(
        "train_eval_mode", "copies running statistics to target networks, whatever `tau`"
    ),
    "callbacks": Behaviour("callbacks", "runs SB3's callbacks, alone, listed and nested"),
    "cancelled": Behaviour("callbacks", "stops where a callback says so"),
    "success": Behaviour("callbacks", "counts successes in evaluations"),
    "checkpoint": Behaviour("callbacks", "checkpoints model, replay buffer and normaliser"),
    "gSDE": Behaviour("sde", "learns with gSDE, squashed or not, expln or not"),
    "gSDE refused": Behaviour("sde", "refuses gSDE and squashing where SB3 does"),
    "HER": Behaviour("her", "learns with HER, for each way to choose goals"),
    "HER from a file": Behaviour("her", "goes on from a file with HER, its buffer too"),
    "HER of pictures": Behaviour("her", "learns with HER from pictures"),
    "n steps": Behaviour("n_step_replay", "learns from returns of several steps"),
    "pictures": Behaviour(
        "cnn", "encodes pictures, channels first or last; same actions from a file"
    ),
    "features_dim": Behaviour(
        "cnn", "puts a linear layer of `features_dim` behind its encoder (`cnn_output_dim` too)"
    ),
    "shared": Behaviour("cnn", "shares its features extractor or not, in target networks too"),
    "targets": Behaviour("cnn", "target networks follow by `tau`, and by nothing else"),
    "scaled": Behaviour("cnn", "takes scaled pictures with `normalize_images=False`"),
    "normalised": Behaviour("vec_normalize", "learns under VecNormalize, HER too, and changes it"),
    "stacked": Behaviour("vec_stacked_obs", "takes stacked vectors and pictures"),
    "identity": Behaviour("identity", "learns to say what it sees"),
}

"""Old import paths: models, pickles and programs of version 0.1 name modules that have moved."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

# Where each module of 0.1 is now. Modules that became a folder of their own name need no entry:
# the folder's face has their public names.
MOVED = {
    "sb3_moe.callbacks.checkpoint": "sb3_moe.snapshot.writing",
    "sb3_moe.callbacks.env_state": "sb3_moe.snapshot.env_state",
    "sb3_moe.callbacks.evaluation": "sb3_moe.vec_env.evaluating",
    "sb3_moe.callbacks.generators": "sb3_moe.generators",
    "sb3_moe.callbacks.linear_per_block": "sb3_moe.learning_rates",
    "sb3_moe.callbacks.pinned_env": "sb3_moe.vec_env.make",
    "sb3_moe.callbacks.record": "sb3_moe.files.record",
    "sb3_moe.callbacks.reservoir": "sb3_moe.vec_env.kept_rows",
    "sb3_moe.callbacks.stored": "sb3_moe.vec_env.observations",
    "sb3_moe.extractors": "sb3_moe.policies.extractors",
    "sb3_moe.options": "sb3_moe.policies.options",
    "sb3_moe.placement": "sb3_moe.policies.architect",
    "sb3_moe.registration": "sb3_moe.policies.registration",
    "sb3_moe.study.architectures": "sb3_moe.study.spec.architectures",
    "sb3_moe.study.cell": "sb3_moe.study.run.cell",
    "sb3_moe.study.config": "sb3_moe.study.spec.config",
    "sb3_moe.study.engine": "sb3_moe.study.run.engine",
    "sb3_moe.study.entries": "sb3_moe.study.spec.entries",
    "sb3_moe.study.figures": "sb3_moe.study.report.figures",
    "sb3_moe.study.folder": "sb3_moe.study.run.folder",
    "sb3_moe.study.games": "sb3_moe.study.spec.games",
    "sb3_moe.study.grid": "sb3_moe.study.spec.grid",
    "sb3_moe.study.headline": "sb3_moe.study.report.headline",
    "sb3_moe.study.heartbeat": "sb3_moe.study.run.heartbeat",
    "sb3_moe.study.integrity": "sb3_moe.study.run.integrity",
    "sb3_moe.study.learner": "sb3_moe.study.run.learner",
    "sb3_moe.study.locks": "sb3_moe.study.run.locks",
    "sb3_moe.study.measures": "sb3_moe.study.report.measures",
    "sb3_moe.study.networks": "sb3_moe.study.run.rehearsal",
    "sb3_moe.study.page": "sb3_moe.study.report.page",
    "sb3_moe.study.provenance": "sb3_moe.study.run.provenance",
    "sb3_moe.study.random_policy": "sb3_moe.study.run.random_policy",
    "sb3_moe.study.ray_engine": "sb3_moe.study.run.ray_engine",
    "sb3_moe.study.results": "sb3_moe.study.report.results",
    "sb3_moe.study.runner": "sb3_moe.study.run.runner",
    "sb3_moe.study.sections": "sb3_moe.study.report.sections",
    "sb3_moe.study.speeds": "sb3_moe.study.run.speeds",
    "sb3_moe.study.stopping": "sb3_moe.study.run.stopping",
    "sb3_moe.study.tables": "sb3_moe.study.report.tables",
    "sb3_moe.study.verdict": "sb3_moe.study.report.verdict",
    "sb3_moe.study.view": "sb3_moe.study.run.view",
    "sb3_moe.task_statistics": "sb3_moe.vec_env.per_task_vec_normalize",
    "sb3_moe.towers": "sb3_moe.policies.towers",
    "sb3_moe.vec_normalize": "sb3_moe.vec_env.per_task_vec_normalize",
    "sb3_moe.vector_infos": "sb3_moe.vec_env.gymnasium_vec_env",
    "sb3_moe.vector_members": "sb3_moe.vec_env.members",
}


class OldPaths(MetaPathFinder, Loader):
    """Give the module of today under its old name: one module, so that its classes are the same."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for the old names alone."""
        return spec_from_loader(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module of today."""
        module = import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module back its own spec, which the import system has written over."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def keep_old_paths() -> None:
    """Let the old names be imported; safe to call twice."""
    if not any(isinstance(finder, OldPaths) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldPaths())

"""MoE policies: one module per family of algorithms, and what they are built from.

From options to actions: ``options`` (what is asked for) -> ``moe_policy`` (what all policies share)
-> ``on_policy``, ``dqn``, ``sac``, ... (SB3's classes with experts) -> ``architect`` (builds, from
``dense_layers`` and ``expert_layers``) -> ``moe_network`` (runs) -> ``sb3_moe.layers`` (route, and
run the experts). ``networks`` finds the networks of any finished policy.
"""

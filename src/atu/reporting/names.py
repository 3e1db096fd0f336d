"""What people call things: the names that tables, charts and sentences show for keys.

A key of `params.yaml` that has none here is shown as it is.
"""

from __future__ import annotations

from atu.config.roles import ORACLE, ORIGINAL

METHODS = {
    ORIGINAL: "Original",
    ORACLE: "Oracle",
    "atu": "ATU",
    "atu_paper": "ATU, as in the paper",
    "ga": "Gradient ascent",
    "graddiff": "GradDiff",
    "npo": "NPO",
    "npo_retain": "NPO with retain",
    "npo_states": "NPO, states held",
    "npo_states_0_2": "NPO, two layers held",
    "npo_masked": "NPO, masked",
    "kl_min": "KL minimisation",
    "simnpo": "SimNPO",
    "wga": "WGA",
    "satimp": "SatImp",
    "ceu": "CEU",
    "dpo": "DPO",
    "altpo": "AltPO",
    "rt": "Rejection tuning",
    "undial": "UNDIAL",
    "flat": "FLAT",
    "pdu": "PDU",
    "mudman": "MUDMAN",
    "whp": "Who’s Harry Potter",
    "task_vector": "Task vector",
    "rmu": "RMU",
    "lunar": "LUNAR",
    "rocr": "ROCR",
    "uld": "ULD",
    "icu": "In-context unlearning",
    "eco": "ECO",
}


def method_name(key: str) -> str:
    """What people call a method of the grid."""
    return METHODS.get(key, key)

"""Claims and what judges them under one name, as programs of version 0.1 import them."""

from sb3_moe.study.report.claims import Claim as Claim
from sb3_moe.study.report.claims import Claims as Claims
from sb3_moe.study.report.claims import Contrast as Contrast
from sb3_moe.study.report.claims import Selector as Selector
from sb3_moe.study.report.claims import load_claims as load_claims
from sb3_moe.study.report.judging import Finding as Finding
from sb3_moe.study.report.judging import Row as Row
from sb3_moe.study.report.judging import estimate as estimate
from sb3_moe.study.report.judging import judge_claims as judge_claims

"""Federated statistics through the encrypted sum: exact, and the same at every hospital.

::

    from client_sdk import Site, analytics

    question = analytics.KaplanMeier(step=1, horizon=1000, groups=["standard", "test"])
    with Site.open("site.toml") as site:
        result = analytics.run(site, question, days, died, treatment)
    print(result.log_rank.p)

The federation's plan must have the layout of `analytics.layout_for(question, ...)` and 24 value bits; see
docs/analytics.md. What every hospital learns is said in each analysis's docstring.
"""

from client_sdk.analytics.analysis import (
    VALUE_BITS,
    AbsentWarning,
    Analysis,
    Finished,
    OneRound,
    dry_run,
    layout_for,
    run,
)
from client_sdk.analytics.checks import Grid
from client_sdk.analytics.counts import CountResult, Counts, Histogram, HistogramResult
from client_sdk.analytics.integers import Field
from client_sdk.analytics.kmeans import KMeans, KMeansResult
from client_sdk.analytics.moments import MomentResult, Moments
from client_sdk.analytics.pca import PCA, PCAResult, PowerPCA
from client_sdk.analytics.quantiles import QuantileResult, Quantiles
from client_sdk.analytics.regression.cross_validation import CrossValidation, CrossValidationResult
from client_sdk.analytics.regression.linear import LinearRegression
from client_sdk.analytics.regression.models import LogisticRegression, PoissonRegression
from client_sdk.analytics.regression.results import LinearResult, LogisticResult, PoissonResult
from client_sdk.analytics.small_cells import SmallCells, SmallCellWarning
from client_sdk.analytics.survival.competing import CumulativeIncidence, Incidence, IncidenceResult
from client_sdk.analytics.survival.concordance import Concordance
from client_sdk.analytics.survival.cox import CoxRegression
from client_sdk.analytics.survival.cox_result import Baseline, ChiSquare, CoxResult, Proportionality, SurvivalCurves
from client_sdk.analytics.survival.curve import Curve
from client_sdk.analytics.survival.kaplan_meier import KaplanMeier, LogRank, SurvivalResult

__all__ = [
    "PCA",
    "VALUE_BITS",
    "AbsentWarning",
    "Analysis",
    "Baseline",
    "ChiSquare",
    "Concordance",
    "CountResult",
    "Counts",
    "CoxRegression",
    "CoxResult",
    "CrossValidation",
    "CrossValidationResult",
    "CumulativeIncidence",
    "Curve",
    "Field",
    "Finished",
    "Grid",
    "Histogram",
    "HistogramResult",
    "Incidence",
    "IncidenceResult",
    "KMeans",
    "KMeansResult",
    "KaplanMeier",
    "LinearRegression",
    "LinearResult",
    "LogRank",
    "LogisticRegression",
    "LogisticResult",
    "MomentResult",
    "Moments",
    "OneRound",
    "PCAResult",
    "PoissonRegression",
    "PoissonResult",
    "PowerPCA",
    "Proportionality",
    "QuantileResult",
    "Quantiles",
    "SmallCellWarning",
    "SmallCells",
    "SurvivalCurves",
    "SurvivalResult",
    "dry_run",
    "layout_for",
    "run",
]

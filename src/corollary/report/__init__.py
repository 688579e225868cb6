"""Reports: scores with their intervals, pictures, and self-contained HTML pages."""

from corollary.report import html, pictures, scores
from corollary.report.pages import FitRun, comparison_page, fit_page
from corollary.report.scores import Score

__all__ = ["FitRun", "Score", "comparison_page", "fit_page", "html", "pictures", "scores"]

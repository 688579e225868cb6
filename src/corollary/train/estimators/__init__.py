"""Networks as scikit-learn estimators, over the one trainer."""

"""Estimators of influence, one per file."""

"""Figures and pages; they read stored results and never load torch."""

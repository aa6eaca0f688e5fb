"""The registry of identities, its laws of tolerance, and one module for each group. Here, and only here, views meet."""

from unidiff.identities.laws import Identity
from unidiff.identities.registry import VIEWS, all, get, register, unregister
from unidiff.identities.report import Check, Report

__all__ = ["VIEWS", "Check", "Identity", "Report", "all", "get", "register", "unregister"]

"""Tests of the path view."""

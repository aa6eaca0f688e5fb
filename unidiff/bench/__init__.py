"""Side-by-side measurements: ratios taken in one run, outputs compared first."""

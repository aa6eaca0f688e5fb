"""What the site needs of its own: formulas without a script, the gallery, and pages for every public name."""

"""``python -m unidiff.cli``."""

from unidiff.cli import main

raise SystemExit(main())

"""How the site is built: ``sphinx-build -W docs site``, which runs every notebook."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # of the notebooks' kernels: two threads on a busy machine wait for each other
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))

import unidiff  # noqa: E402
from unidiff.report.document import style  # noqa: E402

# The notebooks live beside the package; Sphinx reads what lies below its own folder.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks")

# The report's own colours and cards, also under furo's switch for light and dark.
light, dark = re.findall(r":root \{(.*?)\}", style("theme"), re.DOTALL)
switched = [f'body[data-theme="{name}"] {{{ink}}}\n' for name, ink in (("light", light), ("dark", dark))]
(HERE / "generated" / "static").mkdir(parents=True, exist_ok=True)
(HERE / "generated" / "static" / "identities.css").write_text("".join([style("theme"), *switched, style("identity")]))

project = "unidiff"
author = "the unidiff authors"
copyright = "2026, the unidiff authors"
version = release = unidiff.__version__

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # for `!unidiff`

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "extensions.mathtext",
    "extensions.gallery",
    "extensions.reference",
    "extensions.streams",
]
exclude_patterns = ["extensions", "site", "**/.ipynb_checkpoints"]
html_math_renderer = "mathtext"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nitpicky = True
suppress_warnings = ["ref.python"]  # one name, several homes: types are text
nitpick_ignore_regex = [("py:.*", ".*")]  # types of signatures are told as text; links in prose are checked

nb_execution_mode = os.environ.get("UNIDIFF_NOTEBOOKS", "force")  # "off" to look at the pages alone
nb_execution_timeout = 900  # of one cell, on a machine that has other work
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_typehints = "none"
autodoc_member_order = "bysource"
add_module_names = False
napoleon_google_docstring = True

html_theme = "furo"
html_title = "unidiff"
html_static_path = ["static", "generated/static"]
html_css_files = ["identities.css", "site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0068a3", "color-brand-content": "#0068a3"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
    "navigation_with_keys": True,
}
# Fetches nothing from elsewhere.
html_show_sphinx = False

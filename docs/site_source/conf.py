"""Settings of Sphinx for the course's site; build.py lays out what it reads."""

project = "Fine-tune a language model on your own knowledge"
extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_ipywidgets_js: dict[
    str, dict[str, str]
] = {}  # nothing from a network: widgets show what they say without a front end
nb_execution_show_tb = False
nb_code_prompt_show = "Show"
nb_code_prompt_hide = "Hide"
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = html_use_index = html_show_sphinx = html_show_copyright = False
html_show_search_summary = False  # a page that was opened as a file may not read others
highlight_language = "none"  # of blocks in text that name none; notebooks name theirs
pygments_style, pygments_dark_style = "friendly", "github-dark"

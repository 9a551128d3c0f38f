"""Write ppvit/report/plots.html: the page of `dvc plots show`, with the scripts inside that the report takes from it.

    pip install vl-convert-python==1.9.0.post1 && python tests/harness/plots_page.py

The scripts are Vega, Vega-Lite and Vega-Embed, in one file without imports.
"""

from pathlib import Path

import vl_convert

PAGE = Path(__file__).parents[2] / "ppvit" / "report" / "plots.html"
VERSION = "6.4"


def page() -> str:
    head, _, tail = PAGE.read_text(encoding="utf-8").partition("<script>\n")
    return (
        f"{head}<script>\n{vl_convert.javascript_bundle(vl_version=VERSION).strip()}\n{tail[tail.index('</script>') :]}"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

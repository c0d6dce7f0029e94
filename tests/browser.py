# SPDX-License-Identifier: Apache-2.0
"""What a page looks like and does in a real browser: Debian's chromium, without a screen."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

ENOUGH_S = 120
PATIENCE_MS = 10_000
"""Of the browser's own time, which goes on as soon as nothing is left to do."""

SEEN = "what-was-seen"

_FIRST = """
<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message || event.target.src)), true);
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
</script>
"""
_LAST = """
<script>
addEventListener("load", () => setTimeout(() => {
  let seen;
  try { seen = (() => { %s })(); } catch (error) { errors.push(String(error.stack)); }
  const out = document.createElement("pre");
  out.id = "%s";
  out.textContent = JSON.stringify({ errors, seen });
  document.body.append(out);
}, 50));
</script>
"""


def look(page: Path, script: str, folder: Path, *, width: int = 1200, dark: bool = False) -> Any:
    """Return what a script sees on a page.

    :param script: body of a function that returns something for JSON.
    :param folder: takes a copy of the page, and the browser's files.
    :param width: of the window, pixels.
    :raise AssertionError: for an error in the page's scripts or in this one.
    """
    text = page.read_text(encoding="utf-8")
    assert text.count("<head>") == text.count("</body>") == 1
    copy = folder / "page.html"
    last = _LAST % (script, SEEN)
    copy.write_text(
        text.replace("<head>", f"<head>{_FIRST}").replace("</body>", f"{last}</body>"),
        encoding="utf-8",
    )
    argv = [
        *("chromium", "--headless=new", "--disable-gpu", "--hide-scrollbars"),
        # The page is ours; a user in a container has no namespaces for a sandbox.
        *("--no-sandbox", "--disable-dev-shm-usage", "--no-first-run"),
        *(f"--user-data-dir={folder / 'browser'}", f"--window-size={width},1000"),
        *(f"--virtual-time-budget={PATIENCE_MS}", "--dump-dom"),
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        copy.as_uri(),
    ]
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ENOUGH_S,
        check=True,
    )
    found = re.search(rf'<pre id="{SEEN}">(.*?)</pre>', done.stdout, re.S)
    assert found is not None, done.stderr
    result = json.loads(html.unescape(found[1]))
    assert result["errors"] == []
    return result["seen"]

"""What mkdocs does for this site beyond its configuration: the benchmarks' pictures and a part of the README are in it.

Pages name pictures by their place in the repository, so that the links work there as well.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

SAVED = "benchmarks/results/saved"
FROM_README = {"when.md": "## When to use it, and when not"}
"""Pages that are a section of the README under their title."""
LINK = re.compile(rf"\]\((?:\.\./)+{SAVED}/([\w.-]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures."""
    root = Path(config.config_file_path).parent
    for picture in sorted((root / SAVED).glob("*.png")):
        files.append(File.generated(config, f"{SAVED}/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what is the README's, and point links at where the pictures are in the site."""
    if heading := FROM_README.get(page.file.src_uri):
        readme = (Path(config.config_file_path).parent / "README.md").read_text(encoding="utf-8")
        section = readme.partition(f"{heading}\n")[2].partition("\n## ")[0]
        title = markdown.partition("\n")[0]
        markdown = title + "\n" + section.replace("](docs/", "](").replace("](benchmarks/", "](../benchmarks/")
    here = posixpath.dirname(page.file.src_uri) or "."
    return LINK.sub(lambda found: f"]({posixpath.relpath(f'{SAVED}/{found[1]}', here)})", markdown)

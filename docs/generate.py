"""Generate pages of the site: start, CLI, API, decisions, benchmarks. MkDocs loads this file as a hook."""

import importlib
import inspect
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import click
import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the package of this checkout, also where another one is installed

FENCE = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?([^`]*)`")
LITERAL = re.compile(r"^::\n", re.MULTILINE)
SEE_ALSO = re.compile(r"^See Also\n-+\n((?:.+\n?)+)", re.MULTILINE)
COPIES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
KINDS = ("Decorators", "Functions", "Classes", "Modules", "Errors")  # the sections of the API reference
IMPORTED_MODULES = ("reading", "testing")  # public, and not loaded with the package
LINKS_OF_THE_README = "\n## Read on\n"  # the last section, which the navigation of the site replaces
GENERATED_FOLDERS = ("cli", "api", "adr", "benchmarks")


def plain(docstring: str) -> str:
    """Return a docstring with Sphinx roles as code, without the marks of literal blocks, and with links to siblings."""
    return SEE_ALSO.sub(link_siblings, LITERAL.sub("", ROLE.sub(r"`\1`", docstring)))


def link_siblings(section: re.Match[str]) -> str:
    """Return a section "See Also" as a list, with a link to each public name."""
    public = importlib.import_module("mlops_assets").__all__
    items = re.findall(r"^`?(\w[\w., ]*?)`?(?: : (.*(?:\n +.*)*))?$", section[1], re.MULTILINE)
    lines = []
    for names, text in items:
        links = [f"[`{name}`][mlops_assets.{name}]" if name in public else f"`{name}`" for name in names.split(", ")]
        lines.append(f"- {', '.join(links)}" + (f": {' '.join(text.split())}" if text else ""))
    return "\n".join(["See Also", "--------", *lines, ""])


class PlainRoles(griffe.Extension):
    """Show Sphinx roles of docstrings as code."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)


# Pages copied from other places of the repository.


def copied_pages() -> dict[str, Path]:
    """Return page → file of the pages whose text lies outside of docs/."""
    results = sorted((ROOT / "bench" / "results").glob("*.md"))
    return {page: ROOT / name for name, page in COPIES.items()} | {f"benchmarks/{path.name}": path for path in results}


def move_links(text: str, source: Path, page: str) -> str:
    """Point links to files of the repository at the pages that show them."""
    shown = {path.resolve(): name for name, path in copied_pages().items()}
    shown |= {ROOT / "definitions.py": "reference-project.md", ROOT / "bench" / "results": "benchmarks/index.md"}
    shown |= {ROOT / "docs" / "adr": "adr/index.md"}

    def moved(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        if target in shown:
            target = ROOT / "docs" / shown[target]
        elif not target.exists():
            return match[0]
        return f"]({os.path.relpath(target, (ROOT / 'docs' / page).parent)}{match[2] or ''})"

    return LINK.sub(moved, text)


# Indexes.


def title(path: Path) -> str:
    """Return the first heading of a Markdown file."""
    return next(line for line in path.read_text().splitlines() if line.startswith("# ")).removeprefix("# ")


def indexes() -> dict[str, str]:
    """Return the first page of decisions and of benchmarks, and the reference project."""
    decisions = "\n".join(f"- [{title(path)}]({path.name})" for path in sorted((ROOT / "docs" / "adr").glob("0*.md")))
    benchmarks = "\n".join(f"- [{title(path)}]({path.name})" for path in sorted((ROOT / "bench" / "results").glob("*.md")))
    project = (ROOT / "definitions.py").read_text()
    return {
        "adr/index.md": f"# Decisions\n\nEach page records one decision: why it was taken, what follows, and what was rejected.\n\n{decisions}\n",
        "benchmarks/index.md": f"# Benchmarks\n\n`make bench` measures peers in the same run and checks that all give equal answers.\n\n{benchmarks}\n",
        "reference-project.md": f"# The reference project\n\n`make demo` runs this file on all flights from New York in early 2013.\n\n```python\n{project}```\n",
    }


# The CLI reference.


def cell(text: str) -> str:
    """Escape a text for a cell of a table, except for its code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([<*_\[\]])", r"\\\1", part) for part in parts).replace("|", "\\|")


def help_text(command: click.Command) -> str:
    """Return a command's help as Markdown, its examples as code."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    examples = (
        f"```console\n$ {' '.join(text.removeprefix('Example: ').split())}\n```" for text in paragraphs if text.startswith("Example: ")
    )
    return "\n\n".join([*(text for text in paragraphs if not text.startswith("Example: ")), *examples])


def option_table(command: click.Command, context: click.Context) -> str:
    """Return the options of a command as a table."""
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    rows = [f"| `{names.replace('|', ',')}` | {cell(meaning)} |" for names, meaning in records if meaning and "--help" not in names]
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows]) if rows else ""


def describe_command(command: click.Command, context: click.Context, level: int) -> list[str]:
    """Return the blocks of Markdown that describe a command and its subcommands."""
    usage = " ".join(["$", context.command_path, *command.collect_usage_pieces(context)])
    blocks = [f"{'#' * level} {context.command_path}", f"```console\n{usage}\n```", help_text(command), option_table(command, context)]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            blocks += describe_command(child, click.Context(child, info_name=name, parent=context), level + 1)
    return [block for block in blocks if block]


def cli_pages() -> dict[str, str]:
    """Return a page for each command of `mlops`, and a list of them."""
    mlops = importlib.import_module("mlops_assets.cli.main").mlops
    context = click.Context(mlops, info_name="mlops")
    pages, rows = {}, []
    for name in mlops.list_commands(context):
        command = mlops.get_command(context, name)
        pages[f"cli/{name}.md"] = "\n\n".join(describe_command(command, click.Context(command, info_name=name, parent=context), 1)) + "\n"
        rows.append(f"| [`mlops {name}`]({name}.md) | {cell(command.get_short_help_str(200))} |")
    table = "\n".join(["| command | does |", "| --- | --- |", *rows])
    pages["cli/index.md"] = f"# Commands\n\n{help_text(mlops)}\n\n{table}"
    return pages


# The API reference.


def kind_of(value: object) -> str:
    """Return the section of the API reference that lists a public name."""
    if isinstance(value, ModuleType):
        return "Modules"
    if inspect.isclass(value):
        return "Errors" if issubclass(value, Exception) else "Classes"
    return "Decorators" if value.__module__.startswith("mlops_assets.decorators") else "Functions"


def api_page(name: str, value: object) -> str:
    """Return the page of a public name; a public module shows what it exports."""
    members = f"\n      members: {json.dumps(exported(value))}" if isinstance(value, ModuleType) else ""
    return f"---\ntitle: {name}\n---\n\n::: mlops_assets.{name}\n    options:\n      heading_level: 1{members}\n"


def exported(module: ModuleType) -> list[str]:
    """Return the public names of a module: `__all__`, or the functions and classes that it defines."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__ and name[0] != "_"]
    return getattr(module, "__all__", own)


def api_pages() -> dict[str, str]:
    """Return a page for each public name and module, and a list of them."""
    package = importlib.import_module("mlops_assets")
    values = {name: getattr(package, name) for name in package.__all__}
    values |= {name: importlib.import_module(f"mlops_assets.{name}") for name in IMPORTED_MODULES}
    lists: dict[str, list[str]] = {kind: [] for kind in KINDS}
    pages = {}
    for name, value in values.items():
        kind = kind_of(value)
        page = f"{kind.lower()}/{name}.md"  # a folder for each kind: `gate` and `Gate` are one file on some disks
        shown = f"mlops_assets.{name}" if name in IMPORTED_MODULES else f"ml.{name}"
        summary = cell(plain((inspect.getdoc(value) or "").partition("\n\n")[0]))
        pages[f"api/{page}"] = api_page(name, value)
        lists[kind].append(f"| [`{shown}`]({page}) | {summary} |")
    tables = [f"## {kind}\n\n| name | |\n| --- | --- |\n" + "\n".join(rows) for kind, rows in lists.items() if rows]
    text = "`import mlops_assets as ml` gives the names that begin with `ml.`; import the other modules by name."
    pages["api/index.md"] = "\n\n".join(["# Public names", text, *tables]) + "\n"
    return pages


# What MkDocs calls.


def generated_pages() -> dict[str, str]:
    """Return page → text of everything that is not written in docs/."""
    copies = {page: move_links(path.read_text(), path, page) for page, path in copied_pages().items()}
    copies["index.md"], _, _ = copies["index.md"].partition(LINKS_OF_THE_README)
    return copies | indexes() | cli_pages() | api_pages()


def navigation(folder: str, names: list[str]) -> list:
    """Return the navigation of a generated folder: its index, its pages, and a section for each kind of public name."""
    pages = sorted(name for name in names if name.startswith(f"{folder}/") and not name.endswith("/index.md"))
    sections = {kind: [name for name in pages if name.startswith(f"{folder}/{kind.lower()}/")] for kind in KINDS}
    return [
        f"{folder}/index.md",
        *(name for name in pages if name.count("/") == 1),
        *({kind: children} for kind, children in sections.items() if children),
    ]


def on_config(config: dict) -> dict:
    """Put the generated folders into the navigation."""
    pages = config["extra"]["generated"] = generated_pages()
    names = [*pages, *(f"adr/{path.name}" for path in (ROOT / "docs" / "adr").glob("*.md"))]
    for entry in config["nav"]:
        entry.update({section: navigation(value, names) for section, value in entry.items() if value in GENERATED_FOLDERS})
    return config


def on_files(files: list, config: dict) -> None:
    """Add the generated pages."""
    for page, text in config["extra"]["generated"].items():
        files.append(File.generated(config, page, content=text))


def on_page_markdown(markdown: str, page: object, **_: object) -> str:
    """Show the name of a block's file as its title, and move links that leave docs/."""
    source = ROOT / "docs" / page.file.src_uri
    text = markdown if page.file.src_uri in copied_pages() else move_links(markdown, source, page.file.src_uri)
    return FENCE.sub(r'```\1 title="\2"', text)

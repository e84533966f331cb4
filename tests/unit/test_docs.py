"""The documents say what is true: generated parts are up to date, links and commands exist.

`python tests/unit/test_docs.py` writes the generated parts anew.
"""

import re
from pathlib import Path

import pytest

from zkafka.protocol.apis import APIS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", ROOT / "docs/decisions.md"]
_APIS = re.compile(r"(<!-- apis: [^\n]* -->\n)(.*?)(<!-- /apis -->)", re.DOTALL)


def api_table() -> str:
    """The README's table of what is served, clients' APIs first."""

    def rows(inter_broker: bool) -> list[str]:
        served = [api for api in APIS.values() if api.inter_broker is inter_broker]
        return [
            f"{''.join(word.capitalize() for word in api.name.split('_'))} "
            f"{api.min_version}-{api.max_version}"
            for api in served
        ]

    return (
        f"\n| For | APIs and their versions |\n|---|---|\n"
        f"| clients | {', '.join(rows(inter_broker=False))} |\n"
        f"| brokers | {', '.join(rows(inter_broker=True))} |\n\n"
    )


def test_the_readme_lists_the_apis_that_are_served() -> None:
    found = _APIS.search(README.read_text())

    assert found
    assert found[2] == api_table(), "run: python tests/unit/test_docs.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_readme_names_commands_that_exist() -> None:
    for command in set(re.findall(r"\b(?:bin|bench)/[a-z-]+", README.read_text())):
        assert (ROOT / command).exists(), command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_that_are_named_exist(document: Path) -> None:
    packages = (
        "protocol|log|replication|controller|groups|transactions|zk|net|server|admin|testing|cli"
    )
    for path in re.findall(rf"`((?:{packages})/[a-z_/]+\.py)`", document.read_text()):
        assert (ROOT / "zkafka" / path).exists(), path


def test_every_handler_serves_an_api_and_every_api_has_a_handler() -> None:
    handlers = {path.stem for path in (ROOT / "zkafka/server/handlers").glob("[a-z]*.py")}

    assert handlers == {api.name for api in APIS.values()}


if __name__ == "__main__":
    text = README.read_text()
    README.write_text(_APIS.sub(lambda m: m[1] + api_table() + m[3], text))

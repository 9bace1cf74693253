"""API keys: made once, kept as hashes, refused with a message that shows none."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.access import Access, check_listening
from server.cli import app
from server.errors import RateLimited, Unauthorized
from server.keys import digest, environment_keys, read_keys
from server.settings import AccessSettings, SettingsError


def create(file: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["keys", "create", "team", "--file", str(file), *options])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_a_created_key_opens_and_is_not_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = create(file, "--model", "legal", "--requests-per-minute", "5")
    assert key.startswith("zk_")
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    entry = read_keys(file)[0]
    assert (entry.sha256, entry.models, entry.requests_per_minute) == (digest(key), frozenset({"legal"}), 5)
    access = Access.of(AccessSettings(keys_file=file), {})
    assert access.tenant({b"authorization": b"bearer " + key.encode()}).key.name == "team"
    with pytest.raises(Unauthorized):
        access.tenant({b"authorization": b"Bearer " + key[:-1].encode()})


def test_a_name_is_taken_once_and_disabling_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    create(file)
    again = CliRunner().invoke(app, ["keys", "create", "team", "--file", str(file)])
    assert (again.exit_code, len(read_keys(file))) == (2, 1)
    assert CliRunner().invoke(app, ["keys", "disable", "team", "--file", str(file)]).exit_code == 0
    listed = CliRunner().invoke(app, ["keys", "list", "--file", str(file)]).stdout
    assert "disabled=True" in listed
    assert read_keys(file)[0].sha256 not in listed


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("{", "not valid JSON"),
        ('{"keys": [{"name": "a"}]}', r"keys\.0\.sha256"),
        ('{"keys": [{"name": "a", "sha256": "secret-key-in-plain"}]}', r"keys\.0\.sha256"),
        ('{"keys": [{"name": "a", "sha256": "%s", "model": "x"}]}' % ("0" * 64), r"keys\.0\.model"),
    ],
)
def test_a_bad_file_is_refused_by_entry(tmp_path: Path, text: str, finding: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=finding) as refused:
        read_keys(file)
    assert "secret-key-in-plain" not in str(refused.value)


def test_keys_from_the_environment() -> None:
    keys = environment_keys({"ZEPHYRA_API_KEYS": "first-key-of-sixteen, second-key-of-sixteen"})
    assert [key.sha256 for key in keys] == [digest("first-key-of-sixteen"), digest("second-key-of-sixteen")]
    with pytest.raises(SettingsError) as refused:
        environment_keys({"ZEPHYRA_API_KEYS": "short"})
    assert "short'" not in str(refused.value)


def test_an_empty_file_closes_the_door(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text('{"keys": []}')
    with pytest.raises(Unauthorized):
        Access.of(AccessSettings(keys_file=file), {}).tenant({})


def test_listening_elsewhere_without_keys_must_be_asked_for(tmp_path: Path) -> None:
    open_ = Access.of(AccessSettings(), {})
    check_listening(AccessSettings(), "127.0.0.1", open_)
    check_listening(AccessSettings(allow_anonymous=True), "0.0.0.0", open_)
    with pytest.raises(SettingsError, match="--allow-anonymous"):
        check_listening(AccessSettings(), "0.0.0.0", open_)
    closed = Access.of(AccessSettings(), {"ZEPHYRA_API_KEYS": "sixteen-characters"})
    check_listening(AccessSettings(), "0.0.0.0", closed)


def test_limits_survive_a_reload(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = create(file, "--requests-per-minute", "1")
    access = Access.of(AccessSettings(keys_file=file), {})
    headers = {b"x-api-key": key.encode()}
    with access.tenant(headers).admitted():
        pass
    content = json.loads(file.read_text())
    content["keys"].append({"name": "new", "sha256": digest("another-key-sixteen")})
    file.write_text(json.dumps(content))
    access.reload()
    assert access.tenant({b"x-api-key": b"another-key-sixteen"}).key.name == "new"
    with pytest.raises(RateLimited), access.tenant(headers).admitted():
        pass

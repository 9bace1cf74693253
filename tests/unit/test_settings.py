"""Configuration: what is accepted, and that each refusal names the key and the way out."""

from pathlib import Path

import pytest

from server.settings import SettingsError, load


def write(directory: Path, text: str) -> Path:
    path = directory / "zephyra.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_shipped_bundle_is_served() -> None:
    settings = load()
    assert set(settings.adapters) == {"code", "sql", "math", "medical", "finance", "legal", "support"}
    assert all(adapter.domain == name for name, adapter in settings.adapters.items())
    assert (settings.gateway.host, settings.gateway.port) == ("127.0.0.1", 8000)


def test_paths_are_relative_to_the_file_and_ids_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    text = '[base]\nmodel = "mine"\n[adapters.law]\npath = "a/law"\ndomain = "legal"\n'
    settings = load(write(tmp_path, text))
    assert settings.base.model == str(tmp_path / "mine")
    assert settings.adapters["law"].path == tmp_path / "a" / "law"
    hub = load(write(tmp_path, '[base]\nmodel = "someone/some-model"\n'))
    assert hub.base.model == "someone/some-model"
    assert hub.adapters == {}


def test_command_line_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "[gateway]\nport = 1\n")
    assert load(path, {"gateway": {"port": 2}}).gateway.port == 2


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("[gateway]\nprot = 8000\n", r"gateway\.prot: unknown key; allowed here: host, port"),
        ("[gatway]\nport = 8000\n", r"gatway: unknown key; allowed here: gateway, names"),
        ("[gateway]\nport = 70000\n", r"gateway\.port: .*65535"),
        ("[engine]\nmax_lora_rank = 12\n", r"engine\.max_lora_rank: .*1, 8, 16"),
        ('[engine]\nurls = ["localhost:8000"]\n', r"engine\.urls: 'localhost:8000' must begin with http"),
        ('[adapters.Law]\npath = "x"\n', r"adapters\.Law"),
        ('[adapters.text]\npath = "x"\n', r"adapters\.text: the name is reserved"),
        ('[adapters.zephyra]\npath = "x"\n', r"adapters\.zephyra: the name is reserved"),
        (
            '[adapters.a]\npath = "x"\nextra = 1\n',
            r"adapters\.a\.extra: unknown key; allowed here: path, domain",
        ),
        (
            '[adapters.a]\npath="x"\ndomain="sql"\n[adapters.b]\npath="y"\ndomain="sql"\n',
            r"already served by 'a'",
        ),
        ('[adapters.a]\npath="x"\ndomain="general"\n', r"'general' is answered by the base"),
        ("[gateway\n", r"not valid TOML"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, text: str, finding: str) -> None:
    with pytest.raises(SettingsError, match=finding):
        load(write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        load(tmp_path / "none.toml")


def test_the_environment_sets_keys_between_file_and_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "zephyra.toml"
    file.write_text("[engine]\nmax_loras = 3\nmax_lora_rank = 8\n[gateway]\nport = 8001\n")
    monkeypatch.setenv("ZEPHYRA__ENGINE__MAX_LORAS", "9")
    monkeypatch.setenv("ZEPHYRA__ENGINE__URLS", '["http://one:1", "dns+http://many:2"]')
    monkeypatch.setenv("ZEPHYRA__ENGINE__DEVICE", "")
    monkeypatch.setenv("ZEPHYRA__ENGINE__MAX_LORA_RANK", "64")
    monkeypatch.setenv("ZEPHYRA__GATEWAY__PORT", "8002")
    settings = load(file, {"gateway": {"port": 8003}})
    assert settings.engine.max_loras == 9
    assert settings.engine.max_lora_rank == 64
    assert settings.engine.urls == ("http://one:1", "dns+http://many:2")
    assert settings.engine.device == "auto"
    assert settings.gateway.port == 8003


@pytest.mark.parametrize(
    ("variable", "text", "named"),
    [
        ("ZEPHYRA__ENGINE__MAX_LORA", "9", "engine.max_lora"),
        ("ZEPHYRA__ENGINE__URLS", "[http://one]", "ZEPHYRA__ENGINE__URLS"),
        ("ZEPHYRA__NOTHING", "1", "nothing"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError, match=named):
        load()


@pytest.mark.parametrize(("text", "copies"), [('"all"', None), ("2", 2)])
def test_copies_are_all_or_a_number(tmp_path: Path, text: str, copies: int | None) -> None:
    assert load(write(tmp_path, f"[engine]\ncopies = {text}\n")).engine.copies == copies
    with pytest.raises(SettingsError, match=r"engine\.copies: "):
        load(write(tmp_path, "[engine]\ncopies = 0\n"))

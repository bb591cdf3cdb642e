import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from optiinfra_db import connect
from optiinfra_db.errors import InvalidPooler, InvalidURL, OptiInfraError
from optiinfra_db.settings import Limits, Pooling, Settings, checked_pooler, checked_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("postgresql://u:p@h:5432/d", "postgresql://u:p@h:5432/d"),
        ("postgres://u@h/d", "postgresql://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql://u@h/d"),
        ("  postgresql://h/d\n", "postgresql://h/d"),
        ("POSTGRESQL://h/d", "postgresql://h/d"),
        ("postgresql://", "postgresql://"),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql"),
        ("postgresql://u@/d?host=%2Ftmp%2Fa%20b", "postgresql://u@/d?host=%2Ftmp%2Fa%20b"),
        ("postgresql://a:1,b:2/d?target_session_attrs=any",) * 2,
        ("postgresql://[::1]:5432/d",) * 2,
        ("postgresql://u:p%40%2F%3A%25@h/d",) * 2,
        ("postgresql://h/d?user=u&password=p&application_name=me%40here",) * 2,
    ],
)
def test_a_postgresql_url_is_accepted(given, read):
    assert checked_url(given) == read


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/d",
        f"sqlite:///{SECRET}",
        f"postgresql+asyncpg://u:{SECRET}@h/d",
        f"host=h password={SECRET}",
        f"u:{SECRET}@h/d",
        f"{SECRET}",
        f"//u:{SECRET}@h/d",
        f"postgresql:/u:{SECRET}@h/d",
        f"postgresql://u:a@{SECRET}@h/d",
        f"postgresql://u:a@b/{SECRET}@h/d",
        f"postgresql://u:a/{SECRET}@h/d",
        f"postgresql://u:12/{SECRET}@h/d",
        f"postgresql://u:a/b?{SECRET}@h/d",
        f"postgresql://u:12/b?{SECRET}@h/d",
        f"postgresql://u:{SECRET}%zz@h/d",
        f"postgresql://u:{SECRET}/@h:port/d",
        f"postgresql://u@h:{SECRET}/d",
        f"postgresql://h/d?password=a&{SECRET}=b",
        f"postgresql://h/d?pasword={SECRET}",
        f"postgresql://h/d?password=a={SECRET}",
        f"postgresql://u:{SECRET}@[::1/d",
        f"postgresql://u:p@h/d?connect_timeout={SECRET}",
        f"postgresql://u:p@h/d?port={SECRET}",
        "",
        "postgresql",
    ],
)
def test_another_url_is_refused_and_no_part_of_it_shown(url, monkeypatch):
    with pytest.raises(InvalidURL) as caught:
        checked_url(url)
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", url or "x")
    with pytest.raises(InvalidURL) as caught_in_environment:
        Settings()
    for error in (caught.value, caught_in_environment.value):
        shown = "".join(traceback.format_exception(error)) + repr(error)
        assert SECRET not in shown
        assert error.exit_code == 2
        assert "postgresql://" in str(error)


def test_the_password_is_in_no_representation_of_the_settings(monkeypatch):
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", f"postgresql://u:{SECRET}@h/d")
    settings = Settings()
    assert SECRET not in repr(settings) + str(settings) + str(settings.model_dump())
    assert settings.database_url is not None
    assert SECRET in settings.database_url.get_secret_value()
    with pytest.raises(ValidationError) as caught:
        Settings(data_dir=3, database_url=f"postgresql://u:{SECRET}@h/d")  # type: ignore[arg-type]
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", "")
    monkeypatch.setenv("OPTIINFRA_DATA_DIR", "")
    assert Settings().database_url is None
    assert Settings().data_dir is None


def test_the_data_directory_is_configured(monkeypatch):
    monkeypatch.setenv("OPTIINFRA_DATA_DIR", "/some/where")
    assert Settings().data_dir == Path("/some/where")


@pytest.mark.parametrize(
    ("text", "pooler"), [("", None), ("session", "session"), ("transaction", "transaction")]
)
def test_the_pooler_is_configured(monkeypatch, text, pooler):
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", "mysql://is-of-no-interest")
    monkeypatch.setenv("OPTIINFRA_POOLER", text)
    assert Pooling().pooler == pooler


@pytest.mark.parametrize("text", ["statement", "Transaction", "true", "pgbouncer", " "])
def test_an_unknown_pooler_is_refused(monkeypatch, text):
    monkeypatch.setenv("OPTIINFRA_POOLER", text)
    for attempt in (Pooling, lambda: checked_pooler(text), lambda: connect("postgresql://h/d")):
        with pytest.raises(InvalidPooler, match=f"session or transaction.*not {text!r}") as refused:
            attempt()
        assert refused.value.exit_code == 2


def test_the_limits_of_json_are_configured(monkeypatch):
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", "mysql://is-of-no-interest")
    monkeypatch.setenv("OPTIINFRA_MAX_JSON_BYTES", "")
    assert (Limits().max_json_bytes, Limits().max_json_depth) == (16 * 1024 * 1024, 100)

    monkeypatch.setenv("OPTIINFRA_MAX_JSON_BYTES", "65536")
    monkeypatch.setenv("OPTIINFRA_MAX_JSON_DEPTH", "20")
    assert (Limits().max_json_bytes, Limits().max_json_depth) == (65536, 20)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OPTIINFRA_MAX_JSON_BYTES", "0"),
        ("OPTIINFRA_MAX_JSON_BYTES", "1 MB"),
        ("OPTIINFRA_MAX_JSON_BYTES", str(2**28)),
        ("OPTIINFRA_MAX_JSON_DEPTH", "0"),
        ("OPTIINFRA_MAX_JSON_DEPTH", "201"),
    ],
)
def test_a_limit_beyond_what_can_be_written_and_read_is_refused(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError):
        Limits()


def test_all_errors_have_one_base_and_an_exit_code():
    from optiinfra_db import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(classes) > 10
    for error in classes:
        assert issubclass(error, OptiInfraError)
        assert error.exit_code in {1, 2, 3, 4, 5}
        assert error.__doc__

import re
from datetime import UTC, datetime, timedelta

import pytest

from optiinfra_db import api_keys, connect
from optiinfra_db.errors import InvalidApiKey
from optiinfra_db.seed import ATLAS

from .command import read_json, run


def rotate(url, *args):
    result = run("customers", "rotate-key", "atlas", *args, url=url)
    assert result.returncode == 0, result.stderr
    return result.stdout.removesuffix("\n"), result.stderr


def keys(url):
    return read_json("customers", "keys", "atlas", url=url)


def test_a_rotated_key_is_printed_once_and_lets_in(own_url):
    key, said = rotate(own_url)

    assert api_keys.is_well_formed(key)
    assert "not shown again" in said
    assert key not in said
    new, old = keys(own_url)
    assert new["id"] in said
    assert (new["status"], old["status"], new["expires_at"]) == ("valid", "valid", None)
    with connect(own_url) as conn:
        assert api_keys.authenticate(conn, key).customer_id == ATLAS
    assert keys(own_url)[0]["last_used_at"]
    assert key not in run("customers", "keys", "atlas", url=own_url).stdout


@pytest.mark.parametrize(
    ("args", "overlap"), [([], timedelta(days=1)), (["--overlap", "2w"], timedelta(weeks=2))]
)
def test_the_other_keys_expire_after_the_overlap(own_url, args, overlap):
    before = datetime.now(UTC)
    rotate(own_url, *args)
    after = datetime.now(UTC)

    _, old = keys(own_url)
    assert before + overlap <= datetime.fromisoformat(old["expires_at"]) <= after + overlap


def test_without_an_overlap_they_are_expired(own_url):
    first, _ = rotate(own_url)
    rotate(own_url, "--overlap", "0s")

    assert [key["status"] for key in keys(own_url)] == ["valid", "expired", "expired"]
    table = run("customers", "keys", "atlas", url=own_url).stdout
    assert table.count("expired") == 2
    with connect(own_url) as conn, pytest.raises(InvalidApiKey):
        api_keys.authenticate(conn, first)


@pytest.mark.parametrize(("overlap", "exit_code"), [("soon", 2), ("53w", 4)])
def test_an_overlap_that_is_none_is_refused(own_url, overlap, exit_code):
    result = run("customers", "rotate-key", "atlas", "--overlap", overlap, url=own_url)
    assert (result.returncode, result.stdout) == (exit_code, "")
    assert len(keys(own_url)) == 1


def test_a_revoked_key_lets_nobody_in_any_more(own_url):
    key, _ = rotate(own_url)
    new = keys(own_url)[0]["id"]

    result = run("customers", "revoke-key", "atlas", new[:-2], url=own_url)

    assert (result.returncode, result.stdout) == (0, f"revoked {new}\n")
    assert [key["status"] for key in keys(own_url)] == ["revoked", "valid"]
    with connect(own_url) as conn, pytest.raises(InvalidApiKey):
        api_keys.authenticate(conn, key)
    again = run("customers", "revoke-key", "atlas", new, url=own_url)
    assert again.returncode == 4
    assert "revoked already" in again.stderr


def test_a_key_that_is_not_the_customers_is_not_found(own_url):
    (key,) = keys(own_url)
    for customer, text in (("indie", key["id"]), ("atlas", "zz"), ("nobody", key["id"])):
        result = run("customers", "revoke-key", customer, text, url=own_url)
        assert (result.returncode, result.stdout) == (2, "")
        assert re.search("There is no (key|customer) .* List them with: ", result.stderr)
    assert [key["status"] for key in keys(own_url)] == ["valid"]

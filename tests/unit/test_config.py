"""Settings: the order of sources, every fault at once, the readers of values, and the promises of the table itself."""

from __future__ import annotations

import typing
from pathlib import Path

import msgspec
import pytest

from gateway import config, value
from gateway.config import POOL_SETTINGS, SETTINGS, PoolSettings, Settings, SettingsError, load, with_capacities
from gateway.value import Address, BucketListener
from s3api.config import KeyRule
from tiering.backing import CREDENTIALS
from tiering.pool import REGION_BYTES_MIN, REGIONS_MIN


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recall.toml"
    path.write_text(text)
    return str(path)


def faults_of(environ: dict[str, str] | None = None, **arguments: typing.Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(environ or {}, **arguments)
    return caught.value.faults


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("10GiB", 10 << 30),
        ("1.5 KiB", 1536),
        ("5GB", 5_000_000_000),
        ("17", 17),
        (17, 17),
        ("8b", 8),
    ],
)
def test_parse_size_reads(text: object, size: int) -> None:
    assert value.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", -1, "1 PB", "1e3", True, None, 1.5, "0x10", "64 Mi B"])
def test_parse_size_refuses(text: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        value.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604_800), (3, 3), ("0.5", 0.5)],
)
def test_parse_duration_reads(text: object, seconds: float) -> None:
    assert value.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-3s", -3, "3 weeks", float("nan"), float("inf"), False])
def test_parse_duration_refuses(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        value.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", Address("127.0.0.1", 9000)),
        ("[::1]:0", Address("::1", 0)),
        ("host:65535", Address("host", 65535)),
    ],
)
def test_parse_address_reads_what_it_writes(text: str, address: Address) -> None:
    assert value.parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "9000", ":9000", "host:", "host:70000", "host:-1", "::1:9000", "host:٣", 9000])
def test_parse_address_refuses(text: object) -> None:
    with pytest.raises(ValueError):
        value.parse_address(text)


def test_load_without_anything_gives_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load({"PATH": "/bin", "HOME": "/root"})
    assert settings.data_dir == str(tmp_path / "data")
    assert settings.backing == f"file://{tmp_path}/data/backing?create=true"
    assert settings.listen == Address("127.0.0.1", 9000)
    assert list(settings.pools) == ["standard", "kv"]
    assert (settings.pools["standard"].durability, settings.pools["standard"].etag) == ("flash", "md5")
    assert (settings.pools["kv"].durability, settings.pools["kv"].etag) == ("relaxed", "opaque")
    assert settings.pools["kv"].buckets == ("kv-*",)


def test_load_later_sources_win(tmp_path: Path) -> None:
    file = toml(tmp_path, 'workers = 2\nregion = "file"\nlog_level = "error"\n[http]\nidle_s = "1m"\n')
    settings = load(
        {"RECALL_REGION": "environment", "RECALL_LOG_LEVEL": "warning"}, file=file, overrides=[("log_level", "debug")]
    )
    assert (settings.workers, settings.region, settings.log_level) == (2, "environment", "debug")
    assert settings.http.idle_s == 60


def test_load_takes_the_file_the_environment_names(tmp_path: Path) -> None:
    assert load({"RECALL_CONFIG": toml(tmp_path, "workers = 3")}).workers == 3


def test_load_reads_every_kind_of_value_from_toml(tmp_path: Path) -> None:
    settings = load(
        {},
        file=toml(
            tmp_path,
            """
            listen = "0.0.0.0:0"
            domains = ["s3.example", "objects.example"]
            bucket_listeners = ["127.0.0.1:9010=kv-lmcache"]
            [host_buckets]
            "KV.example:9000" = "kv-lmcache"
            [pools.kv]
            capacity_bytes = "1GiB"
            pin_fraction_max = 0.25
            [pools.sessions]
            buckets = ["session-*"]
            demote = "never"
            [[key_rules]]
            key = "*@pin%1*"
            pin = "true"
            [[key_rules]]
            bucket = "kv-*"
            ttl = "3600; sliding"
            """,
        ),
    )
    assert settings.domains == ("s3.example", "objects.example")
    assert settings.bucket_listeners == (BucketListener(Address("127.0.0.1", 9010), "kv-lmcache"),)
    assert settings.host_buckets == {"kv.example:9000": "kv-lmcache"}
    assert settings.pools["kv"].capacity_bytes == 1 << 30
    assert settings.pools["kv"].durability == "relaxed"  # what is not stated stays as the pool's own default
    assert settings.pools["sessions"].demote == "never"
    assert settings.key_rules == (KeyRule(key="*@pin%1*", pin="true"), KeyRule(bucket="kv-*", ttl="3600; sliding"))


def test_settings_are_written_as_they_are_read(tmp_path: Path) -> None:
    changed = load(
        {
            "RECALL_BUCKET_LISTENERS": "[::1]:9010=kv-lmcache",
            "RECALL_KEY_RULES": '[{"key": "*@pin%1*", "pin": "true"}, {"bucket": "kv-*", "ttl": "3600; sliding"}]',
            "RECALL_HOST_BUCKETS": 'kv.example:9000=kv-"x",b.example=b-b'.replace('"', ""),
            "RECALL_NOTIFY_WEBHOOKS": "audit=http://h/x?y=1",
            "RECALL_NOTIFY_OWNERS": "audit=id1+id2",
            "RECALL_DATA_DIR": f'{tmp_path}/ü "d"',
            "RECALL_IDENTITIES": "people.json",
            "RECALL_HTTP_IDLE_S": "0.25s",
            "RECALL_HTTP_PEER_FRACTION_MAX": "1",
            "RECALL_POOLS_KV_BUCKETS": "",
            "RECALL_POOLS_SESSIONS_BUCKETS": "session-*,s-*",
            "RECALL_POOLS_SESSIONS_CAPACITY_BYTES": "1234567B",
        }
    )
    for settings in (changed, load({"RECALL_DATA_DIR": str(tmp_path)})):
        text = config.as_toml(settings)
        assert load({}, file=toml(tmp_path, text)) == settings
    assert "workers = 1  # default\n" in text and 'durability = "relaxed"  # default\n' in text


def test_load_reads_pools_from_the_environment() -> None:
    settings = load(
        {
            "RECALL_POOLS_KV_CAPACITY_BYTES": "2GiB",
            "RECALL_POOLS_COLD_STORE_DEMOTE_AFTER_S": "5m",
            "RECALL_KEY_RULES": '[{"bucket": "kv-*", "pool": "cold-store"}]',
        }
    )
    assert settings.pools["kv"].capacity_bytes == 2 << 30
    assert settings.pools["cold-store"].demote_after_s == 300
    assert settings.key_rules == (KeyRule(bucket="kv-*", pool="cold-store"),)


def test_load_lists_all_faults_at_once(tmp_path: Path) -> None:
    file = toml(
        tmp_path, 'wokers = 2\nlisten = "nowhere"\npools = {kv = {etag = "sha"}, "Bad Name" = {etag = "md5"}}\n'
    )
    faults = faults_of(
        {"RECALL_LISTN": "x", "RECALL_HTTP_IDLE_S": "soon", "RECALL_BACKING": "ftp://x"},
        file=file,
        overrides=[("pools.kv.capacity_byte", "1"), ("workers", "0")],
    )
    text = "\n".join(faults)
    for expected in (
        f"{file}: wokers: no such setting; did you mean workers?",
        f'{file}: listen: "nowhere": not an address',
        f'{file}: pools.kv.etag: "sha": must be one of md5, opaque',
        "pools.Bad Name.etag: a pool's name is",
        "RECALL_LISTN: no such setting; did you mean RECALL_LISTEN?",
        'RECALL_HTTP_IDLE_S: "soon": not a duration',
        'RECALL_BACKING: "ftp://x": must be file:///dir or s3://',
        "command line: pools.kv.capacity_byte: no such setting; did you mean pools.kv.capacity_bytes?",
        'command line: workers: "0": must be a whole number from 1 to 256',
    ):
        assert expected in text
    assert len(faults) == 9


def test_load_knows_the_home_directory_where_no_shell_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = load({}, file=toml(tmp_path, "data_dir = '~/recall'\nidentities = '~/people.json'"))
    assert settings.data_dir == f"{tmp_path}/recall"
    assert settings.identities_path == tmp_path / "people.json"


def test_load_takes_yes_as_toml_says_it(tmp_path: Path) -> None:
    assert load({}, file=toml(tmp_path, "pin_workers = true")).pin_workers == "yes"
    assert load({"RECALL_PIN_WORKERS": "false"}).pin_workers == "no"
    assert "did you mean pools?" in faults_of(file=toml(tmp_path, "[pool.kv]\netag = 'md5'"))[0]


def test_load_names_a_fault_in_an_overridden_value(tmp_path: Path) -> None:
    assert "must be a whole number" in faults_of(file=toml(tmp_path, "workers = 'x'"), overrides=[("workers", "2")])[0]


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ([("pools.kv.region_bytes", "100KiB")], "must be a power of two"),
        ([("pools.kv.region_bytes", "1KiB")], "must be a power of two"),
        ([("pools.kv.capacity_bytes", "128KiB")], f"must be at least {REGIONS_MIN} regions of 64KiB"),
        ([("pools.kv.durability", "backing"), ("pools.kv.demote", "never")], "it cannot be never"),
        ([("pools.x.buckets", "kv-*")], "kv-* is already claimed by pools.kv"),
        ([("pools.kv.dirty_fraction_max", "0")], "must be more than 0"),
        ([("key_rules", '[{"bucket": "b", "pool": "none"}]')], "there is no pool none"),
        ([("key_rules", "{")], "is not JSON"),
        ([("key_rules", '[{"bucket": "b"}]')], "at least one of pin, ttl, pool"),
        ([("key_rules", '[{"bucket": "b", "pin": "perhaps"}]')], "key rule 1"),
        ([("key_rules", '[{"bukcet": "b", "pin": "true"}]')], "bukcet"),
        ([("bucket_listeners", "127.0.0.1:9000=b-b")], "127.0.0.1:9000 is used twice"),
        ([("bucket_listeners", "127.0.0.1:9001=Not A Bucket")], "is no valid bucket name"),
        ([("bucket_listeners", "127.0.0.1:9001")], "must be host:port=bucket"),
        ([("backing", "s3://bucket?endpoint=http://h:1&region=r")], "no credentials for the backing bucket"),
        ([("backing", "file:///x?color=red")], "unknown option"),
        ([("drain_s", "")], "not a duration"),
        ([("drain_s", "99999999999")], "must be at most 36500d"),
        ([("notify_queue_bytes", "99999999999999999999")], "must be at most 1048576TiB"),
        ([("region", "eu/central")], "letters, digits"),
        ([("pools.kv.buckets", "KV-*")], "no bucket's name can match KV-*"),
        ([("http.head_bytes_max", "1MiB")], "must be from 1KiB to 128KiB"),
        ([("http.connections_max", "1.5")], "must be a whole number"),
        ([("pools.kv.pin_fraction_max", "1.1")], "must be a fraction"),
    ],
)
def test_load_refuses(overrides: list[tuple[str, str]], fault: str) -> None:
    assert fault in "\n".join(faults_of(overrides=overrides))


@pytest.mark.parametrize("content", [b"workers = ", b"\xff\xfe", b"pools = 3", b"http = 3", b"pools.kv = 3"])
def test_load_refuses_a_file_that_is_no_settings_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recall.toml"
    path.write_bytes(content)
    assert str(path) in faults_of(file=str(path))[0]


def test_load_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in faults_of(file=str(tmp_path / "none.toml"))[0]


def test_load_takes_backing_credentials_from_the_environment() -> None:
    url = "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1&create=true"
    environ = {"RECALL_BACKING": url, "RECALL_BACKING_ACCESS_KEY": "key", "RECALL_BACKING_SECRET_KEY": "the-secret"}
    settings = load(environ)
    assert settings.backing == url
    assert "the-secret" not in repr(settings)
    assert b"the-secret" not in msgspec.json.encode(settings)


def test_settings_pass_through_json_unchanged() -> None:
    settings = load(
        {"RECALL_KEY_RULES": '[{"key": "*", "pin": "60"}]', "RECALL_BUCKET_LISTENERS": "127.0.0.1:0=b-b,[::1]:0=c-c"}
    )
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


def test_with_capacities_bounds_automatic_pools_by_the_disk() -> None:
    settings = load({"RECALL_POOLS_KV_CAPACITY_BYTES": "1GiB"})

    def capacity(free_bytes: int, pool: str = "standard", **have: int) -> int:
        return with_capacities(settings, free_bytes, have).pools[pool].capacity_bytes

    assert capacity(1 << 40) == 4 << 30
    assert capacity(8 << 30) == 1 << 30
    assert capacity(0) == REGIONS_MIN * REGION_BYTES_MIN
    assert capacity(0, "kv") == 1 << 30
    assert capacity(1 << 40, standard=8 << 20) == 8 << 20, "what a pool has, it keeps"
    assert capacity(1 << 40, "kv", kv=8 << 20) == 1 << 30


def test_every_field_has_a_row_and_every_default_is_legal() -> None:
    fields = {field.name for field in msgspec.structs.fields(Settings)} - {"http", "pools"}
    assert fields == {name for name in SETTINGS if "." not in name}
    assert {field.name for field in msgspec.structs.fields(PoolSettings)} - {"name"} == set(POOL_SETTINGS)
    for known in (*SETTINGS.values(), *POOL_SETTINGS.values()):
        assert known.row.help
        text = config.format_value(known, known.default)
        if known.path != "backing" and text:
            assert known.row.parse(text) == known.default, known.path


def test_units_are_in_the_names() -> None:
    for known in (*SETTINGS.values(), *POOL_SETTINGS.values()):
        name = known.path.rpartition(".")[2]
        assert (known.row.form == "SIZE") == ("bytes" in name), name
        assert (known.row.form == "DURATION") == (name.endswith("_s") and not name.endswith("_per_s")), name
        assert (known.row.form == "FRACTION") == ("fraction" in name), name


def test_environment_names_of_pools_are_unambiguous() -> None:
    """`RECALL_POOLS_<POOL>_<FIELD>`: no field may end like another, or the pool's name could be read two ways."""
    for field in POOL_SETTINGS:
        assert not [other for other in POOL_SETTINGS if other.endswith("_" + field)]
    assert len({known.environment for known in SETTINGS.values()}) == len(SETTINGS)
    assert not [known.path for known in SETTINGS.values() if known.environment.startswith("RECALL_POOLS_")]


def test_webhooks_have_names_and_urls() -> None:
    text = "hook=http://127.0.0.1:8080/events?x=1,Other_2=https://example.com"
    settings = load({"RECALL_NOTIFY_WEBHOOKS": text, "RECALL_NOTIFY_TOKEN_HOOK": "a secret that is no setting"})
    assert settings.notify_webhooks == {
        "hook": "http://127.0.0.1:8080/events?x=1",
        "Other_2": "https://example.com",
    }
    for wrong in ("http://a", "a b=http://c", "a=ftp://c", "a=http://user@c", "a="):
        (fault,) = faults_of({"RECALL_NOTIFY_WEBHOOKS": wrong})
        assert fault.startswith("RECALL_NOTIFY_WEBHOOKS"), wrong


def test_webhooks_may_be_of_some_owners(tmp_path: Path) -> None:
    webhooks = "a=http://a,b=http://b"
    settings = load({"RECALL_NOTIFY_WEBHOOKS": webhooks, "RECALL_NOTIFY_OWNERS": "a=one+two,b=one"})
    assert settings.notify_owners == {"a": ("one", "two"), "b": ("one",)}
    file = tmp_path / "recall.toml"
    file.write_text('[notify_webhooks]\na = "http://a"\n[notify_owners]\na = ["one", "two"]\n')
    assert load({}, file=str(file)).notify_owners == {"a": ("one", "two")}
    for wrong in ("a", "a=", "a=one+", "c=one"):
        (fault,) = faults_of({"RECALL_NOTIFY_WEBHOOKS": webhooks, "RECALL_NOTIFY_OWNERS": wrong})
        assert fault.lower().replace("recall_", "").startswith("notify_owners"), fault


def test_certificate_and_key_come_together() -> None:
    assert load({}, overrides=[("tls_cert", "c.pem"), ("tls_key", "k.pem")]).tls_cert == "c.pem"
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        with pytest.raises(SettingsError) as caught:
            load({}, overrides=[(name, "file")])
        assert caught.value.faults == (f"{name}: is set but {other} is not: give both or neither",)


def test_version_of_tls_may_be_a_number(tmp_path: Path) -> None:
    file = tmp_path / "recall.toml"
    file.write_text("tls_min_version = 1.3\n")
    assert load({}, file=str(file)).tls_min_version == "1.3"
    with pytest.raises(SettingsError, match=r"must be one of 1\.2, 1\.3"):
        load({}, overrides=[("tls_min_version", "1.1")])


def test_variables_kept_from_children_are_those_the_backing_reads() -> None:
    assert {name for pair in CREDENTIALS for name in pair} == set(config.BACKING_SECRETS)


def test_refused_url_is_shown_without_its_password() -> None:
    for setting in ("RECALL_NOTIFY_WEBHOOKS", "RECALL_BACKING"):
        faults = faults_of({setting: "hook=http://user:s3cret@host/"})
        assert faults and not any("s3cret" in fault for fault in faults)

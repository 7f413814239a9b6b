"""The commands of `recall`: their arguments, and what each does.

Owns nothing. Does not know processes (`gateway.supervisor`) or the engine. Kind: shell; composition root of the command line.
Spec: docs/OPERATIONS.md, "Commands".
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from gateway import config, credentials, identities, keys, log, tls, usercommands, version
from gateway.admin import token
from gateway.client import Client, ClientError, check_health
from gateway.config import POOL_SETTINGS, SETTINGS, Settings, SettingsError
from gateway.credentials import Credentials, CredentialsError
from gateway.datadir import EXIT_BAD, EXIT_FAILED, DataDir, StartError, refuse_unknown_pools
from gateway.identities import IdentitiesError
from gateway.keys import KeysError
from gateway.tls import Pair, TlsError
from gateway.value import parse_duration

EXIT_DONE: Final = 0
DEFAULT_RUNNER: Final = "gateway.runner"
DESCRIPTORS_BESIDE: Final = 512
"""Of a worker, beside its connections: files of the pools, calls to the backing store, and what is being read."""

_log = logging.getLogger("recall.commands")


def parser() -> argparse.ArgumentParser:
    """The whole command line. Each command leaves its function in `command`."""
    top = argparse.ArgumentParser(prog="recall", description="An S3-compatible object gateway with a memory tier.")
    top.add_argument("--version", action=_Version, help="print the version")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    common = _common()

    serve = _add(commands, _serve, "serve", "run the gateway", [common])
    _add_setting_flags(serve, except_for=("data_dir", "backing"))
    serve.epilog = "\n".join(_pool_help())

    shown = _add(
        commands,
        _show_settings,
        "settings",
        "check the settings `serve` would have, and print all of them as TOML",
        [common],
    )
    _add_setting_flags(shown, except_for=("data_dir", "backing"))
    _add(commands, _check, "check", "audit index, flash and backing store; exit status 1 on a fault", [common])
    stopped = "; only while no gateway runs on the data directory"
    _add(commands, _rebuild, "rebuild", f"make the index again from the backing store alone{stopped}", [common])
    scrub = _add(
        commands, _scrub, "scrub", f"look for damaged bytes and mend what can be mended, now{stopped}", [common]
    )
    scrub.add_argument(
        "--names", action="store_true", help="of the backing store only ask whether the copies are there"
    )
    stats = _add(commands, _stats, "stats", "what the running gateway has counted", [common])
    stats.add_argument("--json", action="store_true", help="every metric, as JSON")
    health = _add(commands, _health, "health", "whether the running gateway serves; exit status 1 if not", [common])
    health.add_argument("--writes", action="store_true", help="ask whether it takes writes too")
    _add(commands, _metrics_token, "metrics-token", "a bearer token for a Prometheus scraper", [common])

    pin = _change(commands, common, "pin", "keep objects hot", lambda options: {b"x-recall-pin": _lease(options)})
    pin.add_argument(
        "--for", dest="lease", type=_lease_duration, metavar="DURATION", help="as a lease (default: until unpinned)"
    )
    _change(commands, common, "unpin", "let objects be evicted again", lambda _: {b"x-recall-pin": b"false"})
    ttl = _change(commands, common, "ttl", "let objects expire", lambda options: {b"x-recall-ttl": _ttl(options)})
    how = ttl.add_mutually_exclusive_group(required=True)
    how.add_argument("--for", dest="life", type=_life_duration, metavar="DURATION", help="time to live, from now")
    how.add_argument("--remove", action="store_true", help="never expire")
    ttl.add_argument("--sliding", action="store_true", help="the time starts again at each read (with --for)")
    _change(commands, common, "demote", "copy objects to the backing store now", lambda _: {b"x-recall-tier": b"both"})
    _change(commands, common, "evict", "copy them there and drop the hot copies", lambda _: {b"x-recall-tier": b"cold"})
    usercommands.add_commands(commands, common, lambda options: _settings(options, backing=False).identities_path)
    _add(commands, _version, "version", "print the version", [])
    return top


def run(options: argparse.Namespace) -> int:
    """Runs the parsed command; what stops it is one message on stderr and the exit status."""
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        status = command(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read our output has enough
        _say_no_more()
        return EXIT_FAILED
    except SettingsError as error:
        return _refuse("the settings cannot be used:\n  " + "\n  ".join(error.faults), EXIT_BAD)
    except (CredentialsError, KeysError, TlsError) as error:
        return _refuse(str(error), EXIT_BAD)
    except StartError as error:
        return _refuse(str(error), error.status)
    except ClientError as error:
        return _refuse(str(error), EXIT_FAILED)
    except IdentitiesError as error:
        return _refuse(str(error), EXIT_BAD)


def _say_no_more() -> None:
    """What is still buffered of our output must not be tried again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str, status: int) -> int:
    print(f"recall: {message}", file=sys.stderr)
    return status


# --- arguments --------------------------------------------------------------------------------------------------------


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="settings in TOML (also RECALL_CONFIG)")
    for name in ("data_dir", "backing"):
        _add_flag(common, name)
    common.add_argument(
        "--set",
        dest="pairs",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any setting, as pools.kv.demote=eager",
    )
    return common


def _add(
    commands: Any, function: Callable[..., int], name: str, help_text: str, parents: list[argparse.ArgumentParser]
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        parents=parents,
        usage=f"recall {name} [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.set_defaults(command=function)
    return made


def _change(
    commands: Any,
    common: argparse.ArgumentParser,
    name: str,
    help_text: str,
    headers: Callable[[argparse.Namespace], dict[bytes, bytes]],
) -> argparse.ArgumentParser:
    made = _add(commands, _change_objects, name, help_text, [common])
    made.usage = f"recall {name} [options] BUCKET/KEY…"
    made.add_argument("objects", nargs="+", type=_object, metavar="BUCKET/KEY")
    made.set_defaults(headers=headers, verb=name)
    return made


def _add_setting_flags(to: argparse.ArgumentParser, except_for: tuple[str, ...]) -> None:
    groups: dict[str, Any] = {}
    for name, known in SETTINGS.items():
        if name not in except_for and known.row.form != "[[key_rules]]":
            section = known.row.section
            groups.setdefault(section, to.add_argument_group(section) if section not in groups else groups[section])
            _add_flag(groups[section], name)


def _add_flag(to: Any, name: str) -> None:
    known = SETTINGS[name]
    default = config.format_value(known, known.default)
    to.add_argument(
        "--" + name.replace("_", "-").replace(".", "-"),
        dest="setting:" + name,
        metavar=known.row.form,
        help=(known.row.help + (f" (default: {default})" if default else "")).replace("%", "%%"),
    )


def _pool_help() -> Iterator[str]:
    yield "Pools, with --set pools.NAME.SETTING=VALUE (there are: standard, kv):"
    for name, known in POOL_SETTINGS.items():
        default = config.format_value(known, known.default)
        yield f"  {name + ' ' + known.row.form}\n      {known.row.help}{f' (default: {default})' if default else ''}"
    yield ""
    yield "Each setting may also stand in the file of --config and in the environment: http.idle_s is idle_s in the table"
    yield "[http] and RECALL_HTTP_IDLE_S; pools.kv.demote is RECALL_POOLS_KV_DEMOTE. See docs/OPERATIONS.md."


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _lease_duration(text: str) -> float:
    return _some_duration(text, "a lease is at least a millisecond; recall unpin ends one")


def _life_duration(text: str) -> float:
    return _some_duration(text, "a life is at least a millisecond; --remove ends the time to live")


def _some_duration(text: str, why: str) -> float:
    """No time at all would be sent as the end of the intent: that is asked for in another way."""
    seconds = _duration(text)
    if f"{seconds:.3f}" == "0.000":
        raise argparse.ArgumentTypeError(f"{text!r}: {why}")
    return seconds


def _object(text: str) -> tuple[str, str]:
    bucket, _, key = text.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as BUCKET/KEY")
    return bucket, key


def _settings(options: argparse.Namespace, *, backing: bool = True) -> Settings:
    """`backing` False: of a command that only talks to the gateway, which alone needs the store and its credentials."""
    overrides = []
    faults = []
    for name, text in vars(options).items():
        if name.startswith("setting:") and text is not None:
            overrides.append((name.removeprefix("setting:"), text))
    for pair in options.pairs:
        name, equals, text = pair.partition("=")
        if equals:
            overrides.append((name, text))
        else:
            faults.append(f"--set {pair}: write it as NAME=VALUE")
    return config.load(os.environ, file=options.config, overrides=overrides, backing=backing, faults=faults)


# --- commands ---------------------------------------------------------------------------------------------------------


def _keep_to_ourselves() -> None:
    """For commands that hold secrets and make files: neither a core file nor anything made from here on is for others.

    Children inherit both. A limit of one byte, not none: the kernel does not apply it to a collector of cores on the other
    end of a pipe, but takes this one value for "no core at all" (core(5), do_coredump).
    """
    os.umask(0o077)
    may = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = 0 if may == 0 else 1  # of a hard limit of none, nothing can be raised
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def _take_descriptors(connections_max: int) -> None:
    """Children inherit what is allowed. Many systems allow 1,024 until somebody asks, and far more then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + DESCRIPTORS_BESIDE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "a process may have %d files open, and http.connections_max alone is %d: raise the limit (LimitNOFILE, ulimit -n)",
            allowed,
            connections_max,
        )


def _serve(options: argparse.Namespace) -> int:
    from gateway.supervisor import Supervisor

    _keep_to_ourselves()
    settings = _settings(options)
    log.start("supervisor", settings.log_level)
    _log.info("recall %s (%s)", version.package_version(), version.form())
    _take_descriptors(settings.http.connections_max)
    data_dir = DataDir(settings)
    try:
        # Under the lock: two first starts at once must not both make credentials.
        root = credentials.load(data_dir.path, os.environ, generate=True)
        ring = keys.load(data_dir.path, settings.kms_key_file, os.environ)
        pair = tls.load(settings)
        identities.read(settings.identities_path)  # each worker reads it; a fault is better said once, here
        return Supervisor(
            settings,
            root,
            data_dir,
            announce=lambda actual: _show(banner(actual, root, pair)),
            module=getattr(options, "runner", DEFAULT_RUNNER),
            ring=ring,
            pair=pair,
        ).run()
    finally:
        data_dir.close()


def _show(text: str) -> None:
    """To whoever is there: a gateway serves as well when nobody reads its output, or a full disk takes it."""
    try:
        print(text, flush=True)
    except OSError:
        _say_no_more()


def banner(settings: Settings, root: Credentials, pair: Pair | None = None) -> str:
    """What a person who has just started it wants to know. The secret is in it only if it was made by this start."""
    from gateway.supervisor import url

    secure = pair is not None
    endpoint = url(settings.listen, secure)
    kept = Path(settings.data_dir) / credentials.FILE_NAME
    secret = root.secret_key if root.generated else "…"
    where = f"{secret}   (new; kept in {kept})" if root.generated else "as given"
    lines = [
        "",
        f"  Recall is ready at {endpoint}",
        f"  access key   {root.access_key}",
        f"  secret key   {where if root.generated or not kept.exists() else f'in {kept}'}",
        f"  data         {settings.data_dir}",
        f"  backing      {settings.backing.partition('?')[0]}",
        *(
            f"  bucket       {listener.bucket} alone at {url(listener.address, secure)}"
            for listener in settings.bucket_listeners
        ),
        "",
        "  Try:",
        f"    export AWS_ACCESS_KEY_ID='{root.access_key}' AWS_SECRET_ACCESS_KEY='{secret}'",
        f"    export AWS_REGION={settings.region} AWS_DEFAULT_REGION={settings.region} AWS_ENDPOINT_URL={endpoint}",
        *(
            [f"    export AWS_CA_BUNDLE={shlex.quote(str(Path(settings.tls_cert).absolute()))}"]
            if pair and tls.signs_itself(pair)
            else ()
        ),
        "    aws s3 mb s3://first && date | aws s3 cp - s3://first/hello && aws s3 cp s3://first/hello -",
        "",
    ]
    return "\n".join(lines)


def _show_settings(options: argparse.Namespace) -> int:
    """Of what `recall serve` would take from the file and the environment; a secret is in none of them."""
    print(config.as_toml(_settings(options)), end="")
    return EXIT_DONE


def _check(options: argparse.Namespace) -> int:
    """May run beside a gateway: it only reads."""
    from gateway import maintenance

    settings = _settings(options)
    if not (Path(settings.data_dir) / "pools").is_dir():
        raise StartError(f"there is nothing to check: {settings.data_dir} is no data directory that has been used")
    refuse_unknown_pools(settings)
    try:
        return EXIT_FAILED if maintenance.check(settings, sys.stdout) else EXIT_DONE
    except maintenance.MaintenanceError as error:
        raise StartError(f"check: {error}") from error


def _scrub(options: argparse.Namespace) -> int:
    """Only while no gateway runs, which scrubs by itself: the lock is held throughout."""
    from gateway import maintenance

    settings = _settings(options)
    if not (Path(settings.data_dir) / "pools").is_dir():
        raise StartError(f"there is nothing to scrub: {settings.data_dir} is no data directory that has been used")
    _keep_to_ourselves()
    log.start("scrub", settings.log_level)
    data_dir = DataDir(settings)
    try:
        settings = data_dir.fitted(settings)
        unmended = maintenance.scrub(settings, sys.stdout, read_cold=not options.names)
        return EXIT_FAILED if unmended else EXIT_DONE
    except maintenance.MaintenanceError as error:
        raise StartError(f"scrub: {error}") from error
    finally:
        data_dir.close()


def _rebuild(options: argparse.Namespace) -> int:
    """Only while no gateway runs: the lock is held throughout."""
    from gateway import maintenance

    settings = _settings(options)
    if not Path(settings.data_dir).is_dir():
        raise StartError(f"there is no data directory {settings.data_dir}; to rebuild into a new one, make it first")
    _keep_to_ourselves()
    log.start("rebuild", settings.log_level)
    data_dir = DataDir(settings)
    try:
        settings = data_dir.fitted(settings)
        return EXIT_FAILED if maintenance.rebuild(settings, sys.stdout) else EXIT_DONE
    except maintenance.MaintenanceError as error:
        raise StartError(f"rebuild: {error}") from error
    finally:
        data_dir.close()


def _client(settings: Settings) -> Client:
    data_dir = Path(settings.data_dir)
    return Client(data_dir, credentials.load(data_dir, os.environ, generate=False), settings.region)


def _change_objects(options: argparse.Namespace) -> int:
    """One call an object; an object that is refused does not stop the others."""
    headers = options.headers(options)
    client = _client(_settings(options, backing=False))
    status = EXIT_DONE
    try:
        for bucket, key in options.objects:
            try:
                client.change(bucket, key, headers)
                print(f"{options.verb} {bucket}/{key}")
            except ClientError as error:
                status = _refuse(f"{options.verb} {bucket}/{key}: {error}", EXIT_FAILED)
    finally:
        client.close()
    return status


def _lease(options: argparse.Namespace) -> bytes:
    return b"true" if options.lease is None else f"{options.lease:.3f}".encode()


def _ttl(options: argparse.Namespace) -> bytes:
    if options.remove and options.sliding:
        raise SettingsError(["--sliding goes with --for"])
    if options.remove:
        return b"0"
    return f"{options.life:.3f}{'; sliding' if options.sliding else ''}".encode()


def _health(options: argparse.Namespace) -> int:
    """For probes that know neither the port nor whether it speaks TLS, as the image's."""
    check_health(Path(_settings(options, backing=False).data_dir), options.writes)
    return EXIT_DONE


def _metrics_token(options: argparse.Namespace) -> int:
    settings = _settings(options, backing=False)
    root = credentials.load(Path(settings.data_dir), os.environ, generate=False)
    print(token.make(root, time.time()))
    return EXIT_DONE


class _Version(argparse.Action):
    """`--version`, as other programs have it."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        parser.exit(_version(namespace))


def _version(_: argparse.Namespace) -> int:
    print(f"recall {version.package_version()} ({version.form()})")
    return EXIT_DONE


# --- stats ------------------------------------------------------------------------------------------------------------


def _stats(options: argparse.Namespace) -> int:
    client = _client(_settings(options, backing=False))
    try:
        samples = [
            (sample.name, dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(client.metrics())
            for sample in family.samples
        ]
    finally:
        client.close()
    if options.json:
        print(
            json.dumps([{"name": name, "labels": labels, "value": value} for name, labels, value in samples], indent=1)
        )
    else:
        print("\n".join(_summary(samples)))
    return EXIT_DONE


Sample = tuple[str, dict[str, str], float]


def _summary(samples: list[Sample]) -> Iterator[str]:
    def total(name: str, **labels: str) -> float:
        return sum(
            value
            for found, have, value in samples
            if found == name and all(have.get(k) == v for k, v in labels.items())
        )

    yield "pool          capacity      free       hot    pinned     dirty   objects   hit rate"
    for pool in sorted({labels["pool"] for _, labels, _ in samples if "pool" in labels}):
        sizes = (f"{_size(total(f'recall_pool_{what}_bytes', pool=pool)):>9}" for what in _POOL_SIZES)
        reads = {result: total("recall_reads_total", pool=pool, result=result) for result in ("hot", "cold", "miss")}
        rate = f"{reads['hot'] / sum(reads.values()):.3f}" if any(reads.values()) else "-"
        objects = int(total("recall_pool_objects", pool=pool))
        yield f"{pool:<12} {' '.join(sizes)} {objects:>9} {rate:>10}"
    yield ""
    yield "operation                    requests    4xx    5xx    mean ms   received       sent"
    for operation in sorted({labels["operation"] for _, labels, _ in samples if "operation" in labels}):
        requests = total("recall_requests_total", operation=operation)
        mean_ms = 1000 * total("recall_request_seconds_sum", operation=operation) / max(requests, 1)
        failed = [int(total("recall_requests_total", operation=operation, status=kind)) for kind in ("4xx", "5xx")]
        moved = [_size(total(f"recall_{way}_bytes_total", operation=operation)) for way in ("received", "sent")]
        yield (
            f"{operation:<27} {int(requests):>9} {failed[0]:>6} {failed[1]:>6} {mean_ms:>10.3f} "
            f"{moved[0]:>10} {moved[1]:>10}"
        )
    errors = sorted(
        ((value, labels["code"]) for name, labels, value in samples if name == "recall_errors_total"), reverse=True
    )
    if errors:
        yield ""
        yield "errors    " + ", ".join(f"{int(value)} {code}" for value, code in errors)
    refusals, restarts = (int(total(f"recall_{what}_total")) for what in ("overload_refusals", "restarts"))
    if refusals or restarts:
        yield f"          {refusals} refused unread, above a limit; {restarts} processes started again"
    yield ""
    for what, objects_name, bytes_name in _MOVES:
        yield f"{what:<9} {int(total(objects_name)):>10} objects {_size(total(bytes_name)):>10}"
    mended, dropped = (int(total("recall_scrub_damage_total", damage=fate)) for fate in ("repaired", "dropped"))
    damaged = int(total("recall_pool_damaged"))
    yield (
        f"scrubbed  {_size(total('recall_scrubbed_bytes_total')):>10}: {mended} repaired, {dropped} dropped; "
        f"{damaged} damaged now{', named by recall check' if damaged else ''}"
    )


_POOL_SIZES: Final = ("capacity", "free", "hot", "pinned", "dirty")
_MOVES: Final = (
    ("demoted", "recall_demotions_total", "recall_demoted_bytes_total"),
    ("evicted", "recall_evictions_total", "recall_evicted_bytes_total"),
    ("recalled", "recall_recalls_total", "recall_recalled_bytes_total"),
)


def _size(size: float) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f}{unit}"
    return f"{int(size)}B"

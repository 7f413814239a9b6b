"""`recall account`, `recall user`, `recall group` and `recall policy`: who may use the gateway, and for what.

Promise: each command is one change of the identities file, or none; it works whether or not a gateway runs. A secret is
read from the environment or standard input, never from the arguments, which others on the machine can see.

Owns nothing. Does not know requests. Kind: shell (the command line). Spec: docs/OPERATIONS.md, "Accounts and users".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway import identities
from gateway.identities import CANNED, Account, Book, Group, IdentitiesError, Key, User

SECRET_VARIABLE: Final = "RECALL_USER_SECRET_KEY"
replace = msgspec.structs.replace

Change = Callable[[Book, argparse.Namespace], Book]


def add_commands(commands: Any, common: argparse.ArgumentParser, path_of: Callable[[argparse.Namespace], Path]) -> None:
    """Adds the four families to the command line's sub-parsers. `path_of` answers where the file is."""
    for family, help_text, verbs in (
        ("account", "who owns buckets", _ACCOUNT),
        ("user", "who may use the gateway", _USER),
        ("group", "users who share policies", _GROUP),
        ("policy", "what users may do", _POLICY),
    ):
        top = commands.add_parser(family, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        below = {"": top.add_subparsers(required=True, metavar="VERB")}
        for verb, (function, verb_help, arguments) in verbs.items():
            outer, _, inner = verb.rpartition(" ")
            if outer not in below:
                said = f"{', '.join(name.rpartition(' ')[2] for name in verbs if name.startswith(outer + ' '))}: pairs of keys"
                nested = below[""].add_parser(outer, help=said, description=said)
                below[outer] = nested.add_subparsers(required=True, metavar="VERB")
            made = below[outer].add_parser(
                inner, help=verb_help, description=verb_help[0].upper() + verb_help[1:] + ".", parents=[common]
            )
            for names, options in arguments:
                made.add_argument(*names, **options)
            made.set_defaults(command=lambda given, act=function: act(given, path_of(given)))


def _changed(change: Change) -> Callable[[argparse.Namespace, Path], int]:
    """A command that is one change of the file. What the change leaves in `options.said` is printed once it is made."""

    def run(options: argparse.Namespace, path: Path) -> int:
        options.said = []
        with identities.locked(path):
            identities.write(path, change(identities.read(path), options))
        for line in options.said:
            print(line)
        return 0

    return run


def _shown(show: Callable[[Book, argparse.Namespace], object]) -> Callable[[argparse.Namespace, Path], int]:
    """A command that prints something of the file, as JSON."""

    def run(options: argparse.Namespace, path: Path) -> int:
        print(json.dumps(show(identities.read(path), options), indent=1, ensure_ascii=False))
        return 0

    return run


def _found(table: dict[str, Any], kind: str, name: str) -> Any:
    if name not in table:
        raise IdentitiesError(f"there is no {kind} {name}")
    return table[name]


def _secret(options: argparse.Namespace) -> tuple[str, bool]:
    """The secret key given, or a new one; whether it is new."""
    if options.secret_stdin:
        return sys.stdin.readline().rstrip("\r\n"), False
    given = os.environ.get(SECRET_VARIABLE)
    return (given, False) if given else (identities.new_secret(), True)


def _new_key(options: argparse.Namespace) -> Key:
    secret, new = _secret(options)
    key = Key(options.access_key or identities.new_id("AKIA")[:20], secret)
    faults = list(identities.key_faults(key))
    if faults:
        raise IdentitiesError("; ".join(faults))
    options.said += [f"access key   {key.access_key}", f"secret key   {secret if new else 'as given'}"]
    return key


# --- users ------------------------------------------------------------------------------------------------------------


def _add_user(book: Book, options: argparse.Namespace) -> Book:
    if options.name in book.users:
        raise IdentitiesError(f"there is a user {options.name} already")
    accounts, root = dict(book.accounts), options.root
    described = (options.account_id, options.canonical_id, options.display_name, options.email)
    if options.account and options.account not in accounts:
        root = True  # somebody must be able to speak for a new account
        accounts[options.account] = Account(
            options.account_id or identities.new_account_id(),
            options.canonical_id or os.urandom(32).hex(),
            options.display_name or options.account,
            options.email or "",
        )
    elif any(described):
        raise IdentitiesError(
            "ids, display name and e-mail are an account's: give the name of a new one with --account"
        )
    if root and not options.account:
        raise IdentitiesError("the gateway's own account has its root; --root goes with --account")
    user = User(
        account=options.account or "",
        root=root,
        user_id=identities.new_id("AIDA"),
        keys=(_new_key(options),),
        policies=tuple(options.policy),
        groups=tuple(options.group),
    )
    return replace(book, accounts=accounts, users={**book.users, options.name: user})


def _change_user(book: Book, name: str, **fields: Any) -> Book:
    user = _found(book.users, "user", name)
    return replace(book, users={**book.users, name: replace(user, **fields)})


def _remove_user(book: Book, options: argparse.Namespace) -> Book:
    _found(book.users, "user", options.name)
    users = {name: user for name, user in book.users.items() if name != options.name}
    return replace(book, users=users)


def _describe_user(book: Book, name: str) -> dict[str, object]:
    user = book.users[name]
    found: dict[str, object] = {"user": name, "enabled": user.enabled}
    if user.account:
        account = book.accounts[user.account]
        found |= {"account": user.account, **msgspec.structs.asdict(account), "root": user.root}
    keys = [{"access_key": key.access_key, "enabled": key.enabled} for key in user.keys]
    return found | {"keys": keys, "policies": list(user.policies), "groups": list(user.groups)}


def _user_info(book: Book, options: argparse.Namespace) -> object:
    _found(book.users, "user", options.name)
    return _describe_user(book, options.name)


def _add_key(book: Book, options: argparse.Namespace) -> Book:
    user = _found(book.users, "user", options.name)
    return _change_user(book, options.name, keys=(*user.keys, _new_key(options)))


def _remove_key(book: Book, options: argparse.Namespace) -> Book:
    user = _found(book.users, "user", options.name)
    left = tuple(key for key in user.keys if key.access_key != options.access_key)
    if len(left) == len(user.keys):
        raise IdentitiesError(f"user {options.name} has no access key {options.access_key}")
    return _change_user(book, options.name, keys=left)


def _list_accounts(book: Book, options: argparse.Namespace) -> object:
    return [{"account": name, **msgspec.structs.asdict(account)} for name, account in book.accounts.items()]


def _remove_account(book: Book, options: argparse.Namespace) -> Book:
    _found(book.accounts, "account", options.name)
    left = [name for name, user in book.users.items() if user.account == options.name]
    if left:
        raise IdentitiesError(f"account {options.name} has users: {', '.join(left)}")
    return replace(book, accounts={name: each for name, each in book.accounts.items() if name != options.name})


# --- groups and policies ----------------------------------------------------------------------------------------------


def _add_group(book: Book, options: argparse.Namespace) -> Book:
    group = book.groups.get(options.name, Group())
    users = dict(book.users)
    for name in options.users:
        user = _found(users, "user", name)
        if options.name not in user.groups:
            users[name] = replace(user, groups=(*user.groups, options.name))
    return replace(book, groups={**book.groups, options.name: group}, users=users)


def _remove_group(book: Book, options: argparse.Namespace) -> Book:
    """The named users from the group; without any, the group itself."""
    _found(book.groups, "group", options.name)
    leaving = set(options.users or book.users)
    users = {
        name: replace(user, groups=tuple(group for group in user.groups if group != options.name))
        if name in leaving
        else user
        for name, user in book.users.items()
    }
    groups = dict(book.groups)
    if not options.users:
        del groups[options.name]
    return replace(book, groups=groups, users=users)


def _group_info(book: Book, options: argparse.Namespace) -> object:
    group = _found(book.groups, "group", options.name)
    members = [name for name, user in book.users.items() if options.name in user.groups]
    return {"group": options.name, "policies": list(group.policies), "users": members}


def _add_policy(book: Book, options: argparse.Namespace) -> Book:
    try:
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text()
        document = json.loads(text)
    except OSError as error:
        raise IdentitiesError(f"{options.file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise IdentitiesError(f"{options.file} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise IdentitiesError(f"{options.file} is not a policy document")
    return replace(book, policies={**book.policies, options.name: document})


def _remove_policy(book: Book, options: argparse.Namespace) -> Book:
    if options.name in CANNED:
        raise IdentitiesError(f"policy {options.name} is always there")
    holders = [f"user {name}" for name, user in book.users.items() if options.name in user.policies]
    holders += [f"group {name}" for name, group in book.groups.items() if options.name in group.policies]
    if holders:
        raise IdentitiesError(f"policy {options.name} is held by {', '.join(holders)}: detach it first")
    _found(book.policies, "policy", options.name)
    return replace(book, policies={name: each for name, each in book.policies.items() if name != options.name})


def _policy_info(book: Book, options: argparse.Namespace) -> object:
    return CANNED.get(options.name) or _found(book.policies, "policy", options.name)


def _attach(book: Book, options: argparse.Namespace) -> Book:
    return _attached(book, options, lambda names: (*(name for name in names if name != options.name), options.name))


def _detach(book: Book, options: argparse.Namespace) -> Book:
    return _attached(book, options, lambda names: tuple(name for name in names if name != options.name))


def _attached(book: Book, options: argparse.Namespace, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Book:
    if bool(options.user) == bool(options.group):
        raise IdentitiesError("say to whom, with one of --user and --group")
    if options.user:
        user = _found(book.users, "user", options.user)
        return _change_user(book, options.user, policies=change(user.policies))
    group = _found(book.groups, "group", options.group)
    return replace(book, groups={**book.groups, options.group: replace(group, policies=change(group.policies))})


# --- the verbs --------------------------------------------------------------------------------------------------------

_NAMED: Final = (("name",), {"metavar": "NAME"})
_KEYED: Final = (
    (("--access-key",), {"metavar": "KEY", "help": "default: a new one"}),
    (
        ("--secret-stdin",),
        {"action": "store_true", "help": f"read the secret key from standard input (or set {SECRET_VARIABLE})"},
    ),
)
_HOLDER: Final = (_NAMED, (("--user",), {"metavar": "USER"}), (("--group",), {"metavar": "GROUP"}))
_SOME_USERS: Final = (("users",), {"nargs": "*", "metavar": "USER"})

_USER: Final[dict[str, Any]] = {
    "add": (
        _changed(_add_user),
        "add a user, with a first pair of keys",
        (
            _NAMED,
            (("--account",), {"metavar": "ACCOUNT", "help": "of this account; of a new one, the user is its root"}),
            (("--root",), {"action": "store_true", "help": "speaks for the account itself"}),
            (("--account-id",), {"metavar": "DIGITS", "help": "twelve digits, of a new account"}),
            (("--canonical-id",), {"metavar": "ID", "help": "of a new account"}),
            (("--display-name",), {"metavar": "TEXT", "help": "of a new account"}),
            (("--email",), {"metavar": "ADDRESS", "help": "of a new account"}),
            (("--policy",), {"action": "append", "default": [], "metavar": "POLICY", "help": "may be repeated"}),
            (("--group",), {"action": "append", "default": [], "metavar": "GROUP", "help": "may be repeated"}),
            *_KEYED,
        ),
    ),
    "list": (_shown(lambda book, _: [_describe_user(book, name) for name in book.users]), "list all users", ()),
    "info": (_shown(_user_info), "show a user", (_NAMED,)),
    "rm": (_changed(_remove_user), "remove a user", (_NAMED,)),
    "enable": (
        _changed(lambda book, given: _change_user(book, given.name, enabled=True)),
        "let a user in again",
        (_NAMED,),
    ),
    "disable": (
        _changed(lambda book, given: _change_user(book, given.name, enabled=False)),
        "keep a user out, sessions included",
        (_NAMED,),
    ),
    "key add": (_changed(_add_key), "give a user another pair of keys", (_NAMED, *_KEYED)),
    "key rm": (
        _changed(_remove_key),
        "take a pair of keys away",
        (_NAMED, (("access_key",), {"metavar": "ACCESS_KEY"})),
    ),
}
_ACCOUNT: Final[dict[str, Any]] = {
    "list": (_shown(_list_accounts), "list all accounts but the gateway's own", ()),
    "rm": (_changed(_remove_account), "remove an account that has no users", (_NAMED,)),
}
_GROUP: Final[dict[str, Any]] = {
    "add": (_changed(_add_group), "make a group, or add users to it", (_NAMED, _SOME_USERS)),
    "list": (_shown(lambda book, _: list(book.groups)), "list all groups", ()),
    "info": (_shown(_group_info), "show a group", (_NAMED,)),
    "rm": (_changed(_remove_group), "take users out of a group, or remove it", (_NAMED, _SOME_USERS)),
}
_POLICY: Final[dict[str, Any]] = {
    "add": (
        _changed(_add_policy),
        "add or replace a policy",
        (_NAMED, (("file",), {"metavar": "FILE", "help": "a JSON document; - for standard input"})),
    ),
    "list": (_shown(lambda book, _: sorted((*CANNED, *book.policies))), "list all policies", ()),
    "info": (_shown(_policy_info), "show a policy", (_NAMED,)),
    "rm": (_changed(_remove_policy), "remove a policy that nobody has", (_NAMED,)),
    "attach": (_changed(_attach), "give a policy to a user or a group", _HOLDER),
    "detach": (_changed(_detach), "take it away again", _HOLDER),
}

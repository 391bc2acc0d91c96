"""Reads `--config=METHOD:PRESET`, `--config.FIELD=VALUE` and a program's other flags."""

import inspect
import itertools
import pathlib
import re
import runpy
import traceback
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ssl_jax import recipes
from ssl_jax.methods import build
from ssl_jax.recipes import base
from ssl_jax.runtime.errors import UserError, nearest

USAGE = "--config=METHOD:PRESET"


def parse(argv: list[str], *needed: str) -> Any:
    """Parses the command line, and returns the config.

    The config, and the flags in `needed`, may also stand first and without their names: `simclr:digits runs/a`.

    Args:
      argv: with the program's name first.
      *needed: flags without which the program cannot run, beside --config.

    Raises:
      UserError: what absl and ml_collections raise, in one sentence.
    """
    config = None
    argv = [argv[0], *with_names(argv[1:], "config", *needed)]
    try:
        argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
        given, rest = _without_config(argv)
        if given:
            config, rest = _changed(load(given), given, rest)
        others = flags.FLAGS(rest)[1:]
    except (flags.Error, OSError) as error:
        raise UserError(f"A flag cannot be read: {_words(error)}") from error
    if others:
        raise UserError(f"'{others[0]}' is no flag: write --config.FIELD=VALUE. See --help.")
    if config is None or not all(flags.FLAGS[name].value for name in needed):
        wanted = [USAGE, *(f"--{name}=..." for name in needed)]
        raise UserError(f"{' and '.join(wanted)} {'are' if needed else 'is'} needed. See --help.")
    return config


def with_names(arguments: list[str], *names: str) -> list[str]:
    """Writes the arguments before the first flag as flags of these names, in this order.

    Args:
      arguments: without the program's name.
      *names: of flags; further arguments stay as they are.
    """
    leading = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))[: len(names)]
    named = [f"--{name}={value}" for name, value in zip(names, leading, strict=False)]
    return [*named, *arguments[len(leading) :]]


def load(given: str) -> ConfigDict:
    """Returns the config that a value of --config names.

    Args:
      given: METHOD:PRESET, where METHOD is as `config.method.name`; or FILE.py or FILE.py:PRESET, whose function
        `get_config` returns the config, of the preset if one is given.

    Raises:
      UserError: if there is no such method, preset or file, or the file cannot be run.
    """
    name, colon, preset = given.partition(":")
    file = pathlib.Path(name)
    if file.suffix == ".py" or len(file.parts) > 1 or file.is_file():
        return _from_file(file, [preset] if colon else [])
    return recipes.get_config(name, *[preset] if colon else [])


def _from_file(file: pathlib.Path, arguments: list[str]) -> ConfigDict:
    if not file.is_file():
        raise UserError(f"There is no config file {file}, looked for in {pathlib.Path.cwd()}. {_instead(file)}")
    if file.suffix != ".py":
        raise UserError(f"{file} is no config file, whose name ends in .py. Without a file: {USAGE}.")
    try:
        make = runpy.run_path(str(file)).get("get_config")
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"The config file {file} cannot be run: {_where(file, error)}.") from error
    if not callable(make):
        raise UserError(f"{file} is no config: it has no function get_config.")
    try:
        inspect.signature(make).bind(*arguments)
    except TypeError as error:
        given = f"the preset '{arguments[0]}'" if arguments else "no preset"
        raise UserError(f"get_config in {file} does not take {given}: {error}. Write --config=FILE:PRESET.") from error
    try:
        config = make(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"get_config in {file} failed: {_where(file, error)}.") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config in {file} returns a {type(config).__name__}, not an ml_collections.ConfigDict.")
    return config


def _instead(file: pathlib.Path) -> str:
    """A hint for a file that is not there."""
    beside = [str(p) for p in file.parent.glob("*.py")]
    if file.stem in build.names():
        return f"Without a file: --config={file.stem}:PRESET."
    return nearest(str(file), beside) if beside else nearest(file.stem, build.names())


def _where(file: pathlib.Path, error: BaseException) -> str:
    """What an error in a file says, and the last line of the file that led to it."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    return f"{type(error).__name__}: {_words(error)}" + (f" (line {line})" if line else "")


def _words(error: BaseException) -> str:
    cause: Any = error
    while isinstance(cause, BaseException) and cause.args:  # ml_collections wraps one error in another
        cause = cause.args[0]
    return " ".join(str(cause).split())


def _without_config(argv: list[str]) -> tuple[str, list[str]]:
    """The last value of --config, given as --config=VALUE or --config VALUE, and the other arguments."""
    given, rest = "", []
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            given = next(arguments, "")
        elif argument.startswith(("--config=", "-config=")):
            given = argument.split("=", 1)[1]
        else:
            rest.append(argument)
    return given, rest


def _changed(config: ConfigDict, given: str, argv: list[str]) -> tuple[ConfigDict, list[str]]:
    """The config with the --config.FIELD=VALUE of a command line, and the other arguments."""
    argv = _without_unset(config, argv)
    own = flags.FlagValues()
    own.set_gnu_getopt(True)  # else parsing ends at the value of `--workdir FOLDER`
    try:
        holder = config_flags.DEFINE_config_dict("config", config, flag_values=own, lock_config=True, sys_argv=argv)
        rest = own(argv, known_only=True)
    except (flags.Error, AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
        _explain_field(config, given, argv)
        raise UserError(f"A flag cannot be read: {_words(error)}") from error
    return holder.value, rest


def _without_unset(config: ConfigDict, argv: list[str]) -> list[str]:
    """Unsets the fields of each --config.FIELD=None that may be None, and returns the other arguments.

    To the flags of ml_collections None is no number, and as a word it is a string.
    """
    rest = []
    for number, argument in enumerate(argv):
        match = re.fullmatch(r"--?config\.([\w.]+)=None", argument)
        if not (match and _optional(config, match[1])):
            rest.append(argument)
        elif not any(re.match(rf"--?config\.{re.escape(match[1])}(=|$)", later) for later in argv[number + 1 :]):
            config.update_from_flattened_dict({match[1]: None})
            rest = [a for a in rest if not a.startswith((f"--config.{match[1]}=", f"-config.{match[1]}="))]
    return rest


def _optional(config: ConfigDict, name: str) -> bool:
    """Whether a field may be None: it is, or the package's own default is."""
    if name not in (known := fields(config)):
        return False
    defaults = base.fields()
    if "method" in config and (method := known.get("method.name")) in build.names():
        defaults.method = base.method_fields(method)
    own = re.sub(r"^optim\.\w+\.", "optim.default.", name)
    return known[name] is None or fields(defaults).get(own, name) is None


def _explain_field(config: ConfigDict, given: str, argv: list[str]) -> None:
    """Raises a `UserError` for the first --config.FIELD that the config does not have, if there is one."""
    named = [match[1].split(".") for match in (re.match(r"--?(?:no)?config\.([\w.]+)", a) for a in argv) if match]
    for names in named:
        level: Any = config
        for depth, name in enumerate(names, 1):
            if not isinstance(level, ConfigDict):
                raise UserError(f"config.{'.'.join(names[: depth - 1])} is a value, no group of fields: set it itself.")
            if name not in level:
                # The field of this very name in another part is meant, if there is one; else one of this part.
                same = [path for path in fields(config) if path.split(".")[-1] == name]
                hint = f"Did you mean 'config.{same[0]}'?" if same else nearest(name, level.keys())
                raise UserError(f"There is no field config.{'.'.join(names[:depth])} in {given}. {hint}")
            level = level[name]
        if isinstance(level, ConfigDict):
            hint = f"--config.{'.'.join(names)}.{next(iter(level))}=..."
            if names == ["method"]:
                hint = "another method is another config, as --config=byol:cifar10"
            raise UserError(f"config.{'.'.join(names)} is a group of fields and has no value: set one, {hint}.")


def fields(config: ConfigDict) -> dict[str, Any]:
    """Full name to value of all fields."""
    parts = (
        {f"{name}.{inner}": x for inner, x in fields(value).items()} if isinstance(value, ConfigDict) else {name: value}
        for name, value in config.items()
    )
    return dict(itertools.chain.from_iterable(part.items() for part in parts))

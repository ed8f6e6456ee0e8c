"""The manual pages and the shell completions, generated from the command line's parser and the schema."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator

from charon import __version__
from charon.cli.main import build_parser
from charon.config.reference import applies, default_text, kind, ordered, repeated
from charon.config.schema.shape import EVERYWHERE, blocks

MAKERS = f'"Charon {__version__}" "Charon"'

SIGNALS = (
    ("SIGTERM, SIGINT", "Stop accepting, let what is under way finish in drain_timeout, end. A second one: at once."),
    ("SIGHUP", "Put the configuration in force as it stands now, as a whole or, with a mistake in it, not at all."),
    ("SIGUSR1", "Open the log file anew."),
    ("SIGUSR2", "Upgrade in place: start the program anew, hand it the sockets, and finish what is under way."),
)
FILES = (
    ("/etc/charon/config.yaml", "The configuration, see charon.yaml(5)."),
    ("/etc/charon/registry.yaml", "Where services run."),
    ("/etc/default/charon", "The environment of the service."),
    ("/run/charon/admin.sock", "The admin socket, with which the other commands reach a running Charon."),
    ("/var/lib/charon", "Certificates and keys."),
    ("/var/log/charon", "Logs, where logging.file says so."),
    ("/opt/charon", "The program. The service runs from the folder that /opt/charon/current leads to."),
)
EXITS = (
    ("0", "All is fine."),
    ("1", "The configuration or other input is wrong."),
    ("2", "Usage."),
    ("3", "It could not start: a port is taken, a permission is missing."),
)


def generated() -> dict[str, str]:
    """Every generated file, by its path in the project."""
    return {
        "packaging/man/charon.1": charon_1(),
        "packaging/man/charon-activate.8": charon_activate_8(),
        "packaging/man/charon.yaml.5": charon_yaml_5(),
        "packaging/completion/charon.bash": bash_completion(),
        "packaging/completion/_charon": zsh_completion(),
    }


# The command line, as a table.

Command = tuple[str, argparse.ArgumentParser]


def _commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[Command]:
    """Every command with its parser, those with commands of their own before these."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                full = f"{name} {word}".strip()
                yield full, below
                yield from _commands(below, full)


def _help_of(parser: argparse.ArgumentParser, word: str) -> str:
    """What the parser above says of its command ``word``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                if choice.dest == word:
                    return choice.help or ""
    return ""


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]


def _takes_file(action: argparse.Action) -> bool:
    return str(action.metavar) in ("FILE", "DIR", "PATH", "REQUEST")


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """Everything that may follow: commands, options, fixed choices of a positional."""
    found: list[str] = []
    for action in parser._actions:
        if action.option_strings:
            found += action.option_strings
        elif action.choices is not None:
            found += [str(choice) for choice in action.choices]
    return found


# Manual pages.


def _roff(text: str) -> str:
    """Plain text for troff; `code` becomes bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def _entries(entries: Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    return [line for term, text in entries for line in (".TP", f"\\fB{_roff(term)}\\fR", _roff(text))]


def _option(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or (action.dest or '').upper()}"
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return ", ".join(action.option_strings) + value


def charon_1() -> str:
    """charon(1)."""
    parser = build_parser()
    lines = [f'.TH CHARON 1 "" {MAKERS}', ".SH NAME", "charon \\- service\\-mesh sidecar proxy", ".SH SYNOPSIS"]
    lines += [".B charon", "[\\fB\\-\\-config\\fR \\fIFILE\\fR] [\\fICOMMAND\\fR ...]", ".SH DESCRIPTION"]
    lines += [_roff(parser.description or ""), ".SH COMMANDS"]
    known = {"": parser, **dict(_commands(parser))}
    for name, command in list(known.items())[1:]:
        above, _, word = name.rpartition(" ")
        lines += [f".SS charon {_roff(name)}", _roff(command.description or _help_of(known[above], word))]
        shown = [action for action in _options(command) if not isinstance(action, argparse._HelpAction)]
        lines += _entries((_option(action), (action.help or "").replace("%%", "%")) for action in shown)
    for title, entries in (("EXIT STATUS", EXITS), ("SIGNALS", SIGNALS), ("FILES", FILES)):
        lines += [f".SH {title}", *_entries(entries)]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR charon.yaml (5),", ".BR charon\\-activate (8)"]) + "\n"


def charon_activate_8() -> str:
    """charon-activate(8), of packages only."""
    return "\n".join(
        [
            f'.TH CHARON\\-ACTIVATE 8 "" {MAKERS}',
            ".SH NAME",
            "charon\\-activate \\- bring the installed version of charon into force",
            ".SH SYNOPSIS",
            ".B charon\\-activate",
            "[\\fB\\-\\-starting\\fR]",
            ".SH DESCRIPTION",
            "The service runs from a folder of its own for each version, in /opt/charon/versions. This command, which",
            "the package runs itself, has a running service upgraded in place to the version that is installed. If",
            "that does not start or refuses the configuration, the present one stays in force, and why is printed.",
            ".TP",
            "\\fB\\-\\-starting\\fR",
            "The service is about to start: use the installed version if it accepts the configuration.",
            ".SH EXIT STATUS",
            "0 when a version is in force, the installed one or the one before.",
            ".SH SEE ALSO",
            ".BR charon (1)",
        ]
    ) + "\n"


def charon_yaml_5() -> str:
    """charon.yaml(5)."""
    lines = [
        f'.TH CHARON.YAML 5 "" {MAKERS}',
        ".SH NAME",
        "charon.yaml \\- configuration of charon",
        ".SH SYNOPSIS",
        "/etc/charon/config.yaml",
        ".SH DESCRIPTION",
        _roff(
            "YAML in UTF-8. Unknown keys and keys given twice are errors. Durations are 250ms, 30s, 5m, 1h30m; sizes "
            "64KiB, 10MB. Relative paths are relative to the folder of the file. ${NAME} and ${NAME:-default} read the "
            "environment. `charon check` prints every mistake with file and line. A change of a key marked live takes "
            "effect at a reload, one marked restart at a restart."
        ),
    ]
    for path, block in blocks():
        if path and repeated(path):
            continue
        shown = ".".join(path).replace(f".{EVERYWHERE}", "[]" if path[:1] != ("services",) else ".NAME")
        lines += [f".SH {_roff(shown.upper() or 'TOP LEVEL')}"]
        lines += [_roff(inspect.cleandoc(block.__doc__ or ""))] if path else []
        for name, field in ordered(block):
            default = default_text(field)
            facts = f"({kind(field)}{f'; default {default}' if default else ''}; {applies(field)})"
            lines += _entries(((name, f"{field.description or ''} {facts}"),))
    return "\n".join([*lines, ".SH SEE ALSO", ".BR charon (1)"]) + "\n"


# Completion.


def bash_completion() -> str:
    """For bash: words that may follow the command that was typed so far, or files."""
    parser = build_parser()
    cases = []
    for name, command in [("", parser), *_commands(parser)]:
        cases.append(f'        "{name}") words="{" ".join(_words(command))}" ;;')
    commands = " | ".join(f'"{name}"' for name, _ in _commands(parser))
    files = sorted({o for _, c in _commands(parser) for a in _options(c) if _takes_file(a) for o in a.option_strings})
    return "\n".join(
        [
            "# bash completion for charon. Generated by scripts/generate.",
            "_charon() {",
            "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}",
            "    local command='' words='' word",
            '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
            '        case "${command:+$command }$word" in',
            f"        {commands}) command=\"${{command:+$command }}$word\" ;;",
            "        esac",
            "    done",
            f"    case $previous in {'|'.join(files)})",
            '        mapfile -t COMPREPLY < <(compgen -f -- "$current")',
            "        return ;;",
            "    esac",
            "    case $command in",
            *cases,
            "    esac",
            '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")',
            "    if [ ${#COMPREPLY[@]} -eq 0 ]; then mapfile -t COMPREPLY < <(compgen -f -- \"$current\"); fi",
            "}",
            "complete -o filenames -F _charon charon",
        ]
    ) + "\n"


def zsh_completion() -> str:
    """For zsh: the same words."""
    parser = build_parser()
    every = [("", parser), *_commands(parser)]
    cases = [f'    "{name}") words_here=({" ".join(_words(command))}) ;;' for name, command in every]
    commands = "|".join(f'"{name}"' for name, _ in _commands(parser))
    return "\n".join(
        [
            "#compdef charon",
            "# Generated by scripts/generate.",
            "local command='' word",
            "local -a words_here",
            "for word in ${words[2,CURRENT-1]}; do",
            '    case "${command:+$command }$word" in',
            f"    {commands}) command=\"${{command:+$command }}$word\" ;;",
            "    esac",
            "done",
            "case $command in",
            *cases,
            "esac",
            "compadd -- $words_here",
            "_files",
        ]
    ) + "\n"

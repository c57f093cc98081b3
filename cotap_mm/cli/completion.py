"""Completion of ``cotap`` in bash and zsh: scripts that need no Python when they run.

They are generated from the parsers of the commands, so that they know all options and choices.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from .completable import Completable, Values, completable

#: Options of ``cotap`` itself.
GLOBAL = ('--help', '--version', '--completion')
_BASH = """\
# Completion of cotap for bash. In ~/.bashrc:  eval "$(cotap --completion bash)"
_cotap_arguments() { # of a command: all options, and what positional arguments are
    case $1 in
@ARGUMENTS@
    esac
}
_cotap_values() { # of an option of a command: how many, files or folders, words
    count=1 kind= words=
    case "$1 $2" in
@VALUES@
    esac
}
_cotap_add() { # completions that a command prints, one in a line
    local line
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <("$@" -- "$cur")
}
_cotap() {
    local cur=${COMP_WORDS[COMP_CWORD]} last=$((COMP_CWORD - 1))
    local command=${COMP_WORDS[1]} options= positional= positional_words=
    local count= kind= words= index given=0
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        _cotap_add compgen -W @COMMANDS@
        return
    fi
    if [ "$command" = --completion ]; then
        _cotap_add compgen -W 'bash zsh'
        return
    fi
    _cotap_arguments "$command"
    # bash splits --option=value at the sign.
    if [ "$cur" = = ]; then cur=; elif [ "${COMP_WORDS[last]}" = = ]; then last=$((last - 1)); fi
    index=$last
    while ((index > 1)) && [[ ${COMP_WORDS[index]} != -* ]]; do
        index=$((index - 1)) given=$((given + 1))
    done
    kind=$positional words=$positional_words
    if ((index > 1)); then
        _cotap_values "$command" "${COMP_WORDS[index]}"
        if [ "$count" != + ] && ((given >= count)); then
            kind=$positional words=$positional_words
        fi
    fi
    if [[ $cur == -* ]]; then
        _cotap_add compgen -W "$options"
        return
    fi
    if [ -n "$words" ]; then _cotap_add compgen -W "$words"; fi
    if [ -n "$kind" ]; then
        compopt -o filenames 2> /dev/null
        if [ "$kind" = folders ]; then _cotap_add compgen -d; else _cotap_add compgen -f; fi
    fi
}
complete -F _cotap cotap
"""
_ZSH = """\
#compdef cotap
# Completion of cotap for zsh. In ~/.zshrc, after compinit:  eval "$(cotap --completion zsh)"
# or in a file named _cotap in a folder of $fpath.
_cotap() {
    local -a subcommands
    local curcontext=$curcontext state line
    subcommands=(
@COMMANDS@
    )
    if ((CURRENT == 2)); then
        if [[ $words[2] == -* ]]; then
            compadd -- @GLOBAL@
        else
            _describe -t commands command subcommands
        fi
        return
    fi
    local command=$words[2]
    shift words
    ((CURRENT--))
    case $command in
    --completion) compadd bash zsh ;;
@ARGUMENTS@
    esac
}
_cotap_config() { # names of shipped configs, and files
    compadd -- "$@"
    _files
}
if [ "$funcstack[1]" = _cotap ]; then _cotap "$@"; else compdef _cotap cotap; fi
"""


def completion_script(shell: str, commands: Mapping[str, str]) -> str:
    """Generate the completion of a shell.

    Args:
        shell (str): 'bash' or 'zsh'.
        commands (mapping[str, str]): Name of each command -> what it does.

    Returns:
        str: Text to be evaluated by the shell.

    Raises:
        ValueError: If the shell is not supported.
    """
    generators = {'bash': _bash_script, 'zsh': _zsh_script}
    if shell not in generators:
        raise ValueError(f'--completion must be bash or zsh, got {shell!r}')
    return generators[shell](commands)


def _bash_script(commands: Mapping[str, str]) -> str:
    arguments: list[str] = []
    patterns: dict[Values, list[str]] = {}
    for command in commands:
        described = completable(command)
        options = ' '.join(name for each in described for name in each.names)
        positional = next((each.values for each in described if not each.names), Values('0'))
        arguments.append(
            f'    {command}) options={shlex.quote(options)} positional={positional.kind} '
            f'positional_words={shlex.quote(" ".join(positional.words))} ;;'
        )
        for each in described:
            for name in each.names:
                patterns.setdefault(each.values, []).append(f"'{command} {name}'")
    values = [
        f'    {" | ".join(names)})\n        count={value.count} kind={value.kind} '
        f'words={shlex.quote(" ".join(value.words))} ;;'
        for value, names in patterns.items()
        if value != Values('1')
    ]
    return (
        _BASH.replace('@ARGUMENTS@', '\n'.join(arguments))
        .replace('@VALUES@', '\n'.join(values))
        .replace('@COMMANDS@', shlex.quote(' '.join([*commands, *GLOBAL])))
    )


def _zsh_script(commands: Mapping[str, str]) -> str:
    cases = []
    for command in commands:
        specs = [spec for each in completable(command) for spec in _zsh_specs(each)]
        lines = ' \\\n'.join(f'            {shlex.quote(spec)}' for spec in specs)
        cases.append(f'    {command})\n        _arguments -S : \\\n{lines}\n        ;;')
    described = [f'        {shlex.quote(f"{name}:{text}")}' for name, text in commands.items()]
    return (
        _ZSH.replace('@COMMANDS@', '\n'.join(described))
        .replace('@GLOBAL@', ' '.join(GLOBAL))
        .replace('@ARGUMENTS@', '\n'.join(cases))
    )


def _zsh_specs(argument: Completable) -> list[str]:
    """Specifications of an argument for the function ``_arguments`` of zsh."""
    values = argument.values
    metavar = _escaped(argument.metavar)
    action = ' '
    if values.kind and values.words:
        action = f'{{_cotap_config {" ".join(values.words)}}}'
    elif values.words:
        action = f'({" ".join(values.words)})'
    elif values.kind:
        action = '_files -/' if values.kind == 'folders' else '_files'
    if not argument.names:
        return [f'{"*" if values.count == "+" else ""}:{metavar}:{action}']
    if values.count == '0':
        rest = ''
    elif values.count == '+':
        rest = f':*-*:{metavar}:{action}'
    else:
        names = metavar.split() if int(values.count) > 1 else [metavar]
        rest = ''.join(f':{name}:{action}' for name in names)
    return [f'*{name}[{_escaped(argument.text)}]{rest}' for name in argument.names]


def _escaped(text: str) -> str:
    """Escape the characters that separate the parts of a specification."""
    for char in '\\:[]':
        text = text.replace(char, f'\\{char}')
    return text

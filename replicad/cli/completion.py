"""Completion in bash, zsh and fish: click's, but for what it does with names that are more than one word.

Importing this makes click use the classes below.
"""

from __future__ import annotations

from click.shell_completion import BashComplete, FishComplete, ZshComplete, add_completion_class

VARIABLE = "_REPLICAD_COMPLETE"

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' type value quoted word=${COMP_WORDS[COMP_CWORD]} response
    response=$(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1" 2>/dev/null)
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                # A name may hold spaces: in quotes it goes as it is, else with backslashes.
                if [[ $word != [\\"\\']* ]]; then
                    printf -v quoted %%q "$value"
                    value=$quoted
                fi
                COMPREPLY+=("$value")
                ;;
        esac
    done <<< "$response"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_FISH = """\
function %(complete_func)s
    set -l response (COMP_WORDS=(commandline -cp | string collect) COMP_CWORD=(commandline -t | string collect) \\
        %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null)
    for line in $response
        # At the first comma only: a name may hold more of them.
        set -l found (string split --max 1 , -- $line)
        switch $found[1]
            case dir
                __fish_complete_directories $found[2]
            case file
                __fish_complete_path $found[2]
            case plain
                echo $found[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class QuotingBash(BashComplete):
    """Its script puts backslashes where the shell wants them."""

    source_template = _BASH


class WholeLinesInFish(FishComplete):
    """Its script takes a name with commas whole."""

    source_template = _FISH


SHELLS = {"bash": QuotingBash, "zsh": ZshComplete, "fish": WholeLinesInFish}

for _shell in SHELLS.values():
    add_completion_class(_shell)

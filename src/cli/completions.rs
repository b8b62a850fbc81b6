//! Shell completion scripts for this program's commands and flags, and, after `procwire run`, for other
//! programs and their arguments.
//!
//! **Thread:** main.
//! **Owns:** the three dialects.
//! **Never:** knows a flag: all of them come from the table in `args.rs`.

use crate::cli::args::{COMMANDS, Completes, Flag, Takes};

/// The script for one of the shells in `args.rs`.
pub fn script(shell: &str) -> String {
    match shell {
        "bash" => bash(),
        "zsh" => zsh(),
        _ => fish(),
    }
}

fn spellings(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|short| format!("-{short}"));
    short.into_iter().chain([format!("--{}", flag.long)]).collect()
}

/// The names of all commands, separated by `separator`.
fn names(separator: &str) -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
    names.join(separator)
}

/// The flags of `run` that are followed by a value.
fn valued_flags_of_run() -> Vec<String> {
    let run = COMMANDS.iter().filter(|c| c.operands == Completes::CommandLine);
    let flags = run.flat_map(|run| run.flags);
    let valued = flags.filter(|flag| matches!(flag.takes, Takes::Value(..)));
    valued.flat_map(spellings).collect()
}

// ---- bash ----

/// The command of bash that completes `word` so.
fn bash_action(completes: Completes) -> String {
    match completes {
        Completes::Nothing => ":".to_owned(),
        Completes::Files => "__procwire_reply filenames -f".to_owned(),
        Completes::Directories => "__procwire_reply filenames -d".to_owned(),
        Completes::Variables => "__procwire_reply default -e".to_owned(),
        Completes::Assignments => "__procwire_reply nospace -e -S =".to_owned(),
        Completes::Programs | Completes::CommandLine => "__procwire_reply default -c".to_owned(),
        Completes::OneOf(words) => format!("__procwire_reply default -W '{}'", words.join(" ")),
        Completes::Subcommands => format!("__procwire_reply default -W '{}'", names(" ")),
    }
}

fn bash() -> String {
    let mut valued = Vec::new();
    let mut values = String::new();
    let mut words = String::new();
    let mut operands = String::new();
    for subcommand in COMMANDS {
        let name = subcommand.name;
        for flag in subcommand.flags {
            let joined = format!("{name}:--{}=", flag.long);
            let apart = spellings(flag)
                .into_iter()
                .map(|spelling| format!("{name}:{spelling}"));
            let (patterns, completes) = match flag.takes {
                Takes::Nothing => continue,
                Takes::Optional(_, completes) => (vec![joined], completes),
                Takes::Value(_, completes) => {
                    let apart: Vec<String> = apart.collect();
                    valued.extend(apart.clone());
                    ([apart, vec![joined]].concat(), completes)
                }
            };
            let action = bash_action(completes);
            values.push_str(&format!("        {}) {action}; return ;;\n", patterns.join("|")));
        }
        let all: Vec<String> = subcommand.flags.iter().flat_map(spellings).collect();
        words.push_str(&format!("            {name}) flag='{}' ;;\n", all.join(" ")));
        if subcommand.operands != Completes::Nothing {
            let action = bash_action(subcommand.operands);
            operands.push_str(&format!("            {name}) {action} ;;\n"));
        }
    }
    format!(
        r#"# procwire: completions for bash
_procwire() {{
    local line=$COMP_LINE last=${{COMP_WORDS[COMP_CWORD]}} command=serve flag= word= rest= i= n=-1
    local -a words=() starts=()
    COMPREPLY=()
    # Bash splits words at '=' and ':'. Here each is whole, and 'starts' says where it begins.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        rest=${{line#"${{line%%[![:space:]]*}}"}}
        if ((n >= 0)) && [[ $rest == "$line" && -n ${{COMP_WORDS[i]}} ]]; then
            words[n]+=${{COMP_WORDS[i]}}
        else
            words[++n]=${{COMP_WORDS[i]}}
            starts[n]=$i
        fi
        line=${{rest#"${{COMP_WORDS[i]}}"}}
    done
    [[ $last == [=:] ]] && last=
    word=${{words[n]}} i=1
    case ${{words[1]}} in
        {alternatives}) ((n == 1)) || {{ command=${{words[1]}}; i=2; }} ;;
    esac
    for ((; i < n; i++)); do
        case $command:${{words[i]}} in
            {valued}) ((++i == n)) && flag=${{words[n-1]}} ;;
            run:--) __procwire_program "$((starts[i] + 1))"; return ;;
            run:-?*) ;;
            run:*) __procwire_program "${{starts[i]}}"; return ;;
        esac
    done
    if [[ -z $flag && $word == --*=* ]]; then
        flag=${{word%%=*}}= word=${{word#*=}}
    fi
    case $command:$flag in
{values}    esac
    if [[ $word == -* ]]; then
        case $command in
{words}        esac
        __procwire_reply default -W "$flag"
    elif ((n == 1)); then
        __procwire_reply default -W '{names}'
    else
        case $command in
{operands}        esac
    fi
}}

# What 'compgen' finds for the word, without what stands before the part of it that bash replaces.
__procwire_reply() {{
    compopt -o "$1" 2> /dev/null
    mapfile -t COMPREPLY < <(compgen "${{@:2}}" -- "$word")
    COMPREPLY=("${{COMPREPLY[@]#"${{word%"$last"}}"}}")
}}

# From this word on everything is the program's.
__procwire_program() {{
    if (($1 == COMP_CWORD)); then
        __procwire_reply default -c
    elif declare -F _comp_command_offset > /dev/null; then
        _comp_command_offset "$1"
    elif declare -F _command_offset > /dev/null; then
        _command_offset "$1"
    else
        compopt -o bashdefault -o default 2> /dev/null
    fi
}}

complete -F _procwire procwire
"#,
        alternatives = names("|"),
        valued = valued.join("|"),
        names = names(" "),
    )
}

// ---- zsh ----

/// In single quotes.
fn zsh_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A text as part of a specification, in which some characters have a meaning.
fn zsh_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '\\' | '[' | ']' | ':') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn zsh_action(completes: Completes) -> String {
    match completes {
        Completes::Nothing => " ".to_owned(),
        Completes::Files => "_files".to_owned(),
        Completes::Directories => "_path_files -/".to_owned(),
        Completes::Variables => "_parameters -g \"*export*\"".to_owned(),
        Completes::Assignments => "_parameters -g \"*export*\" -qS=".to_owned(),
        Completes::Programs | Completes::CommandLine => "_command_names -e".to_owned(),
        Completes::OneOf(words) => format!("({})", words.join(" ")),
        Completes::Subcommands => format!("({})", names(" ")),
    }
}

fn zsh() -> String {
    let mut described = String::new();
    let mut cases = String::new();
    for subcommand in COMMANDS {
        let name = subcommand.name;
        let entry = format!("{name}:{}", zsh_escaped(subcommand.about));
        described.push_str(&format!("        {}\n", zsh_quoted(&entry)));
        let mut specifications = String::new();
        for flag in subcommand.flags {
            for spelling in spellings(flag) {
                let long = spelling.starts_with("--");
                let help = zsh_escaped(flag.help);
                let specification = match flag.takes {
                    Takes::Nothing => format!("*{spelling}[{help}]"),
                    Takes::Optional(..) if !long => format!("*{spelling}[{help}]"),
                    Takes::Optional(value, completes) => {
                        format!("*{spelling}=-[{help}]::{value}:{}", zsh_action(completes))
                    }
                    Takes::Value(value, completes) => {
                        let joined = if long { "=" } else { "" };
                        format!("*{spelling}{joined}[{help}]:{value}:{}", zsh_action(completes))
                    }
                };
                specifications.push_str(&format!(" \\\n            {}", zsh_quoted(&specification)));
            }
        }
        let operands = match subcommand.operands {
            Completes::Nothing => String::new(),
            Completes::Files => " \\\n            '*:file:_files'".to_owned(),
            other => format!(
                " \\\n            {}",
                zsh_quoted(&format!("1:{name}:{}", zsh_action(other)))
            ),
        };
        let pattern = match name {
            "serve" => "serve|-*",
            name => name,
        };
        cases.push_str(&format!(
            "        {pattern})\n        _arguments -s -S :{specifications}{operands} ;;\n"
        ));
    }
    format!(
        r#"#compdef procwire
# procwire: completions for zsh
_procwire() {{
    # Not 'commands', which zsh has for the programs it knows.
    local -a subcommands
    subcommands=(
{described}    )
    if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then
        _describe -t commands 'procwire command' subcommands
        return
    fi
    local subcommand=$words[2]
    if [[ $subcommand != -* ]]; then
        shift words
        ((CURRENT--))
    fi
    if [[ $subcommand == run ]]; then
        # From the program on, the line is completed as if it stood alone, without flags of procwire.
        local -i i
        for ((i = 2; i <= CURRENT; i++)); do
            case $words[i] in
                {valued}) ((i++)) ;;
                --) ((i++ < CURRENT)) && break ;;
                -?*) ;;
                *) break ;;
            esac
        done
        if ((i == CURRENT)) && [[ $words[i-1] == -- ]]; then
            _command_names -e
            return
        elif ((i < CURRENT)); then
            shift $((i - 1)) words
            ((CURRENT -= i - 1))
            _normal
            return
        fi
    fi
    case $subcommand in
{cases}    esac
}}
if [[ $funcstack[1] == _procwire ]]; then
    _procwire "$@"
else
    compdef _procwire procwire
fi
"#,
        valued = valued_flags_of_run().join("|"),
    )
}

// ---- fish ----

/// In single quotes.
fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

fn fish_action(completes: Completes) -> String {
    match completes {
        Completes::Nothing => String::new(),
        Completes::Files => " -F".to_owned(),
        Completes::Directories => " -a '(__procwire_complete_directories)'".to_owned(),
        Completes::Variables => " -a '(set -xn)'".to_owned(),
        Completes::Assignments => " -a '(set -xn)='".to_owned(),
        Completes::Programs => " -a '(__fish_complete_command)'".to_owned(),
        Completes::CommandLine => " -a '(__procwire_complete_program)'".to_owned(),
        Completes::OneOf(words) => format!(" -a '{}'", words.join(" ")),
        Completes::Subcommands => format!(" -a '{}'", names(" ")),
    }
}

fn fish() -> String {
    let mut script = format!(
        r#"# procwire: completions for fish

# Prints the command that is being typed, 'none' before there is one, and 'program' after the flags of
# 'run', with the words of that program so far.
function __procwire_state
    set -l words (commandline -opc)
    set -e words[1]
    if not set -q words[1]
        echo none
        return
    else if not contains -- $words[1] {names}
        echo serve
        return
    else if test $words[1] != run
        echo $words[1]
        return
    end
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case --
                set -e words[1]
                printf '%s\n' program $words
                return
            case {with_value}
                set -e words[1]
            case '-*'
            case '*'
                printf '%s\n' program $words
                return
        end
        set -e words[1]
    end
    echo run
end

# Whether flags or arguments of this command come now.
function __procwire_at
    contains -- (__procwire_state)[1] $argv
end

# The program, or what it completes by itself.
function __procwire_complete_program
    set -l words (__procwire_state)[2..-1]
    set -l token (commandline -ct)
    if set -q words[1]
        set words (string escape -- $words)
        complete -C "$words $token"
    else if not string match -q -- '-*' $token
        complete -C "$token"
    end
end

# A value after a flag and an equals sign is completed without these two.
function __procwire_complete_directories
    __fish_complete_directories (string replace -r -- '^--[^=]*=' '' (commandline -ct))
end

complete -c procwire -f
"#,
        names = names(" "),
        with_value = valued_flags_of_run().join(" "),
    );
    for subcommand in COMMANDS {
        let name = subcommand.name;
        script.push_str(&format!(
            "complete -c procwire -n '__procwire_at none' -a {name} -d {}\n",
            fish_quoted(subcommand.about)
        ));
        let at = match name {
            "serve" => "'__procwire_at none serve'".to_owned(),
            name => format!("'__procwire_at {name}'"),
        };
        for flag in subcommand.flags {
            let short = flag.short.map_or(String::new(), |short| format!(" -s {short}"));
            let value = match flag.takes {
                Takes::Nothing => String::new(),
                // -F allows files again, which -x forbids.
                Takes::Value(_, Completes::Files) => " -r -F".to_owned(),
                Takes::Value(_, completes) => format!(" -x{}", fish_action(completes)),
                Takes::Optional(_, completes) => fish_action(completes),
            };
            script.push_str(&format!(
                "complete -c procwire -n {at} -l {}{short}{value} -d {}\n",
                flag.long,
                fish_quoted(flag.help)
            ));
        }
        let action = fish_action(subcommand.operands);
        if !action.is_empty() {
            let at = match subcommand.operands {
                Completes::CommandLine => format!("'__procwire_at {name} program'"),
                _ => at,
            };
            script.push_str(&format!("complete -c procwire -n {at}{action}\n"));
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::SHELLS;

    #[test]
    fn every_shell_knows_every_flag() {
        for shell in SHELLS {
            let script = script(shell);
            for subcommand in COMMANDS {
                assert!(script.contains(subcommand.name));
                for flag in subcommand.flags {
                    let spelling = match shell {
                        "fish" => format!("-l {}", flag.long),
                        _ => format!("--{}", flag.long),
                    };
                    assert!(
                        script.contains(&spelling),
                        "{shell} does not know {spelling} of {}",
                        subcommand.name
                    );
                }
            }
        }
    }
}

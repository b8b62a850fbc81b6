//! What makes a shell complete this program's commands and flags.
//!
//! **Thread:** main.
//! **Owns:** the three dialects.
//! **Never:** knows a flag: all of them come from the table in `flags.rs`.

use crate::flags::{COMMANDS, Completes, Flag, Subcommand};

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The script for a shell, if it is one of those we know.
pub fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// The first line of a help, without what would need quoting.
fn summary(flag: &Flag) -> String {
    let line = flag.help.lines().next().unwrap_or_default();
    let line = line.trim_end_matches(';');
    line.replace(['\'', '[', ']', ':'], "")
}

fn spellings(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|short| format!("-{short}"));
    short.into_iter().chain([format!("--{}", flag.long)]).collect()
}

fn words(subcommand: &Subcommand) -> String {
    let all: Vec<String> = subcommand.flags.iter().flat_map(spellings).collect();
    all.join(" ")
}

/// The spellings of flags whose value is of this kind, as a pattern of `case`.
fn pattern(subcommand: &Subcommand, wanted: impl Fn(&Flag) -> bool) -> String {
    let flags = subcommand.flags.iter().filter(|flag| wanted(flag));
    flags.flat_map(spellings).collect::<Vec<_>>().join("|")
}

fn bash() -> String {
    let mut cases = String::new();
    for subcommand in COMMANDS {
        let mut values = String::new();
        for (kind, action) in [
            (Completes::Nothing, "COMPREPLY=()"),
            (
                Completes::Files,
                "mapfile -t COMPREPLY < <(compgen -f -- \"$word\")",
            ),
            (
                Completes::Directories,
                "mapfile -t COMPREPLY < <(compgen -d -- \"$word\")",
            ),
        ] {
            let pattern = pattern(subcommand, |f| !f.value.is_empty() && f.completes == kind);
            if !pattern.is_empty() {
                values.push_str(&format!("                {pattern}) {action}; return ;;\n"));
            }
        }
        let otherwise = match subcommand.name {
            "completions" => format!("words='{} --help'", SHELLS.join(" ")),
            _ => format!("words='{}'", words(subcommand)),
        };
        let names = match subcommand.name {
            "serve" => "serve|*",
            name => name,
        };
        let case = format!(
            "        {names})\n            case $before in\n{values}            esac\n            {otherwise} ;;\n"
        );
        // The program's own, which stands for everything else as well, must be the last.
        match subcommand.name {
            "serve" => cases.push_str(&case),
            _ => cases.insert_str(0, &case),
        }
    }
    let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
    format!(
        r#"# procwire: completions for bash
_procwire() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words= i
    if [[ ${{COMP_WORDS[1]}} == run ]]; then
        # Behind '--' everything is the program's.
        for ((i = 2; i < COMP_CWORD; i++)); do
            if [[ ${{COMP_WORDS[i]}} == -- ]]; then
                if declare -F _command_offset > /dev/null; then
                    _command_offset $((i + 1))
                elif ((i + 1 == COMP_CWORD)); then
                    mapfile -t COMPREPLY < <(compgen -c -- "$word")
                fi
                return
            fi
        done
    fi
    case ${{COMP_WORDS[1]}} in
{cases}    esac
    if ((COMP_CWORD == 1)); then
        words="{names} $words"
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}}
complete -o default -F _procwire procwire
"#,
        names = names.join(" ")
    )
}

fn zsh() -> String {
    let mut commands = String::new();
    let mut cases = String::new();
    for subcommand in COMMANDS {
        commands.push_str(&format!(
            "        '{}:{}'\n",
            subcommand.name,
            subcommand.about.replace(['\'', ':'], "")
        ));
        let mut specifications = String::new();
        for flag in subcommand.flags {
            let value = match (flag.value, flag.completes) {
                ("", _) => String::new(),
                (value, Completes::Nothing) => format!(":{value}: "),
                (value, Completes::Files) => format!(":{value}:_files"),
                (value, Completes::Directories) => format!(":{value}:_files -/"),
            };
            for spelling in spellings(flag) {
                specifications.push_str(&format!(
                    " \\\n            '*{spelling}[{}]{value}'",
                    summary(flag)
                ));
            }
        }
        let rest = match subcommand.name {
            "run" => {
                " \\\n            '(-)1:program:_command_names -e' \\\n            '*::argument:_normal'"
            }
            "check" => " \\\n            '*:file:_files'",
            "completions" => " \\\n            '1:shell:(bash zsh fish)'",
            _ => "",
        };
        let names = match subcommand.name {
            "serve" => "serve|-*",
            name => name,
        };
        cases.push_str(&format!(
            "        {names})\n        _arguments -s -S{specifications}{rest} ;;\n"
        ));
    }
    format!(
        r#"#compdef procwire
# procwire: completions for zsh
_procwire() {{
    local -a commands
    commands=(
{commands}    )
    if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then
        _describe command commands
        return
    fi
    local command=$words[2]
    if [[ $command != -* ]]; then
        shift words
        ((CURRENT--))
    fi
    case $command in
{cases}    esac
}}
_procwire "$@"
"#
    )
}

fn fish() -> String {
    let mut script = String::from("# procwire: completions for fish\ncomplete -c procwire -f\n");
    let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
    for subcommand in COMMANDS {
        let about = subcommand.about.replace('\'', "");
        script.push_str(&format!(
            "complete -c procwire -n __fish_use_subcommand -a {} -d '{about}'\n",
            subcommand.name
        ));
        let condition = match subcommand.name {
            "serve" => format!("not __fish_seen_subcommand_from {}", names[1..].join(" ")),
            name => format!("__fish_seen_subcommand_from {name}"),
        };
        for flag in subcommand.flags {
            let short = flag.short.map_or(String::new(), |short| format!(" -s {short}"));
            let value = match (flag.value, flag.completes) {
                ("", _) => "",
                (_, Completes::Nothing) => " -x",
                (_, Completes::Files) => " -r -F",
                (_, Completes::Directories) => " -x -a '(__fish_complete_directories)'",
            };
            script.push_str(&format!(
                "complete -c procwire -n '{condition}' -l {}{short}{value} -d '{}'\n",
                flag.long,
                summary(flag)
            ));
        }
        script.push_str(&match subcommand.name {
            "run" => format!("complete -c procwire -n '{condition}' -a '(__fish_complete_subcommand)'\n"),
            "check" => format!("complete -c procwire -n '{condition}' -F\n"),
            "completions" => format!(
                "complete -c procwire -n '{condition}' -a '{}'\n",
                SHELLS.join(" ")
            ),
            _ => String::new(),
        });
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_every_flag() {
        for shell in SHELLS {
            let script = script(shell).expect("it is known");
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
        assert_eq!(script("csh"), None);
    }
}

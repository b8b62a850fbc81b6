//! The command line as it is typed: what is understood, what is suggested, and what errors say.

use super::*;

fn parsed(arguments: &[&str]) -> Result<Command, String> {
    parse(arguments.iter().map(OsString::from))
}

#[test]
fn every_flag_of_the_table_is_understood_and_no_other() {
    for subcommand in COMMANDS {
        for flag in subcommand.flags {
            let values: &[&str] = match flag.takes {
                Takes::Nothing => &[],
                Takes::Optional(_, Completes::OneOf(values)) => &values[..1],
                Takes::Value("HEAD,TAIL", _) => &["7,7"],
                Takes::Value("NAME=VALUE", _) => &["nice=7"],
                Takes::Value("DIR", _) => &["/"],
                Takes::Value(..) | Takes::Optional(..) => &["7"],
            };
            let joined = values.first().map(|value| format!("--{}={value}", flag.long));
            let short = flag.short.map(|short| format!("-{short}"));
            let spelled = short.into_iter().chain([format!("--{}", flag.long)]);
            let apart = spelled.map(|spelling| match flag.takes {
                Takes::Value(..) => vec![spelling, values[0].to_owned()],
                _ => vec![spelling],
            });
            for mut arguments in apart.chain(joined.map(|joined| vec![joined])) {
                arguments.insert(0, subcommand.name.to_owned());
                match subcommand.name {
                    "completions" => arguments.push("bash".to_owned()),
                    "run" | "check" => arguments.push("x".to_owned()),
                    _ => {}
                }
                if let Err(error) = parse(arguments.iter().map(OsString::from)) {
                    panic!("{arguments:?}: {error}");
                }
            }
        }
        let error = parsed(&[subcommand.name, "--no-such-flag"]).unwrap_err();
        assert!(error.contains("--no-such-flag"), "{error}");
    }
    let Ok(Command::Serve(serve)) = parsed(&["--guarded-by=1,2", "serve", "--drain"]) else {
        panic!("what a guard starts is a server");
    };
    assert_eq!(
        (serve.guarded_by.as_deref(), serve.config.drain),
        (Some("1,2"), true)
    );
}

#[test]
fn what_follows_the_program_is_its_own() {
    for separator in [&["--"][..], &[]] {
        let arguments = [&["run", "--json"], separator, &["ls", "--json", "--", "-t"]].concat();
        let Ok(Command::Run(run)) = parsed(&arguments) else {
            panic!("{arguments:?} is understood");
        };
        assert_eq!(run.command, ["ls", "--json", "--", "-t"]);
        assert!(run.json && run.tty == Tty::Auto);
    }
    assert!(parsed(&["run"]).unwrap_err().contains("PROGRAM"));
}

#[test]
fn what_may_have_been_meant_is_suggested() {
    for (arguments, expected) in [
        (&["rn"][..], "unknown command 'rn'; did you mean 'run'?"),
        (&["chekc", "x"], "unknown command 'chekc'; did you mean 'check'?"),
        (&["comp"], "did you mean 'completions'?"),
        (&["help", "serv"], "did you mean 'serve'?"),
        (&["fly"], "unknown command 'fly'\n"),
        (
            &["run", "--tiemout", "5s", "x"],
            "unknown flag '--tiemout'; did you mean '--timeout'?",
        ),
        (&["run", "--time=5", "x"], "did you mean '--timeout'?"),
        (&["run", "-timeout", "5s", "x"], "did you mean '--timeout'?"),
        (
            &["run", "-json", "x"],
            "unknown flag '-json'; did you mean '--json'?",
        ),
        (&["--cwd", "/"], "unknown flag '--cwd'; 'procwire run' has it"),
        (&["run", "-x", "x"], "unknown flag '-x'\n"),
        (
            &["run", "--quite-another", "x"],
            "unknown flag '--quite-another'\n",
        ),
    ] {
        let error = parsed(arguments).unwrap_err();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn errors_name_the_flag_its_value_and_what_was_expected() {
    for (arguments, expected) in [
        (
            &["run", "-e", "=x", "true"][..],
            "-e '=x': expected NAME=VALUE, but NAME is empty",
        ),
        (&["run", "--env", "A", "true"], "--env 'A': expected NAME=VALUE"),
        (
            &["run", "-u", "A=B", "true"],
            "-u 'A=B': expected the name of a variable",
        ),
        (&["run", "-u", "", "true"], "-u '': must not be empty"),
        (
            &["run", "--timeout", "soon", "true"],
            "--timeout 'soon': expected a duration: 500ms",
        ),
        (&["run", "--timeout"], "--timeout needs a value: DURATION"),
        (
            &["run", "-C", "/no/such", "true"],
            "--cwd '/no/such': the directory does not exist",
        ),
        (
            &["run", "-C", "/dev/null", "true"],
            "--cwd '/dev/null': not a directory",
        ),
        (&["run", "-C", "", "true"], "-C '': must not be empty"),
        (
            &["run", "-C", "a", "-s", "x", "true"],
            "--cwd 'a': must be absolute with --server",
        ),
        (&["run", "--server", "", "true"], "--server '': must not be empty"),
        (
            &["run", "--json=1", "true"],
            "--json does not take a value, got '1'",
        ),
        (&["run", ""], "PROGRAM must not be empty"),
        (&["check"], "missing FILE"),
        (
            &["check", "--deadline", "0", "x"],
            "--deadline '0': must be longer than 0",
        ),
        (
            &["--max-message-bytes", "x"],
            "--max-message-bytes 'x': expected a number of bytes",
        ),
        (
            &["--max-message-bytes", "0"],
            "--max-message-bytes '0': must be at least 1",
        ),
        (
            &["--default-timeout-ms", "x"],
            "--default-timeout-ms 'x': expected a duration",
        ),
        (
            &["--default-output-cap", "-1"],
            "--default-output-cap '-1': expected a number of bytes: 4096, 64K, 16M or 1G, or 'none'",
        ),
        (&["serve", "x"], "unexpected argument 'x'"),
        (&["completions", "csh"], "'csh': expected bash, zsh or fish"),
        (&["run", "--x\u{1b}[2J"], "'--x\\u{1b}[2J'"),
    ] {
        let error = parsed(arguments).unwrap_err();
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert!(error.contains("\nTry 'procwire"), "{error}");
    }
}

#[test]
fn lines_of_help_fit_80_columns() {
    for subcommand in COMMANDS {
        for line in help(subcommand).lines() {
            assert!(line.chars().count() <= help::WIDTH, "{line}");
        }
        let asked = parsed(&["help", subcommand.name]);
        assert!(matches!(asked, Ok(Command::Print(text)) if text == help(subcommand)));
    }
}

//! The commands of a shell's text (`sh -c TEXT`), as far as they can be told without running it.
//!
//! Only what stands where a command stands counts: arguments, quotes, comments, substitutions, redirections,
//! here-documents and the patterns of `case` hold none. Positional parameters are what they stand for; every
//! other expansion is unknown, and shown by its name. Nothing here fails: of a text that no shell would take,
//! something is found or nothing.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Words before a command that are none (POSIX, "Reserved Words").
const RESERVED: [&[u8]; 11] =
    [b"!", b"{", b"}", b"if", b"then", b"elif", b"else", b"while", b"until", b"do", b"time"];
/// Words whose own words are no commands.
const NO_COMMAND: [&[u8]; 6] = [b"for", b"select", b"function", b"fi", b"done", b"esac"];

/// Each command of `text`, with its words; `parameters` are `$0`, `$1` and so on.
pub(super) fn commands(text: &[u8], parameters: &[OsString]) -> Vec<Vec<OsString>> {
    let mut lexer = Lexer { text, at: 0, parameters, delimiters: Vec::new() };
    let mut found = Vec::new();
    let mut command: Vec<Word> = Vec::new();
    let mut within: Vec<Within> = Vec::new();
    while let Some(token) = lexer.next() {
        match (within.last(), token) {
            (Some(Within::Patterns), token) => match token {
                Token::Close => *within.last_mut().expect("it is within patterns") = Within::Branch,
                Token::Word(word) if word.is(b"esac") => drop(within.pop()),
                _ => {}
            },
            (Some(Within::Branch), Token::Branch) => {
                found.extend(program(std::mem::take(&mut command)));
                *within.last_mut().expect("it is within a branch") = Within::Patterns;
            }
            (around, Token::Word(word)) => {
                let is_first = command.iter().all(Word::is_reserved);
                if is_first && word.is(b"case") {
                    within.push(Within::Patterns);
                } else if is_first && around == Some(&Within::Branch) && word.is(b"esac") {
                    within.pop();
                } else {
                    command.push(word);
                }
            }
            (_, Token::Words(words)) => command.extend(words),
            // `name()`: what follows is the function's.
            (_, Token::Open) if lexer.takes(b")") => command.clear(),
            (around, token) => {
                match token {
                    Token::Open => within.push(Within::Parentheses),
                    Token::Close if around == Some(&Within::Parentheses) => drop(within.pop()),
                    _ => {}
                }
                found.extend(program(std::mem::take(&mut command)));
            }
        }
    }
    found.extend(program(command));
    found
}

/// What a simple command runs: its words without reserved ones, variables, `exec` and `command`.
fn program(words: Vec<Word>) -> Option<Vec<OsString>> {
    let mut words = words.as_slice();
    loop {
        let (first, mut rest) = words.split_first()?;
        if first.is_plain && NO_COMMAND.contains(&&*first.text) {
            return None;
        }
        let is_exec = first.is(b"exec");
        if is_exec || first.is(b"command") || first.is(b"builtin") {
            while let Some((option, after)) =
                rest.split_first().filter(|(word, _)| word.text.starts_with(b"-"))
            {
                if !is_exec && option.text.iter().any(|byte| b"vV".contains(byte)) {
                    // It is only asked where that is.
                    return None;
                }
                let has_value = is_exec && option.text.ends_with(b"a");
                rest = after.get(usize::from(has_value)..).unwrap_or_default();
            }
        } else if !first.is_reserved() && !first.is_assignment() {
            break;
        }
        words = rest;
    }
    Some(words.iter().map(|word| OsString::from_vec(word.text.clone())).collect())
}

#[derive(PartialEq)]
enum Within {
    Parentheses,
    /// From `case`, or `;;`, to the next `)`.
    Patterns,
    /// From there to the next `;;`.
    Branch,
}

struct Word {
    text: Vec<u8>,
    /// Nothing of it is quoted or expanded.
    is_plain: bool,
}

impl Word {
    fn is(&self, text: &[u8]) -> bool {
        self.is_plain && self.text == text
    }

    fn is_reserved(&self) -> bool {
        self.is_plain && RESERVED.contains(&&*self.text)
    }

    fn is_assignment(&self) -> bool {
        let Some(end) = self.text.iter().position(|byte| *byte == b'=') else { return false };
        let name = &self.text[..end];
        name.first().is_some_and(|byte| !byte.is_ascii_digit()) && name.iter().all(is_of_name)
    }
}

fn is_of_name(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_'
}

enum Token {
    Word(Word),
    /// What `"$@"` stands for.
    Words(Vec<Word>),
    /// `;`, `&`, `|`, `&&`, `||` or a line's end.
    End,
    /// `;;`, the end of a branch of `case`.
    Branch,
    Open,
    Close,
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    parameters: &'a [OsString],
    /// Of here-documents that begin with the next line.
    delimiters: Vec<Vec<u8>>,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<Token> {
        loop {
            let rest = self.rest();
            match rest {
                [] => return None,
                [b' ' | b'\t' | b'\r', ..] => self.at += 1,
                [b'\\', b'\n', ..] => self.at += 2,
                [b'#', ..] => self.at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
                [b'<' | b'>', b'(', ..] => {
                    self.at += 2;
                    self.skip_nested(b'(', b')');
                }
                [b'<' | b'>', ..] | [b'&', b'>', ..] => self.redirection(),
                [b'(', ..] => {
                    self.at += 1;
                    return Some(Token::Open);
                }
                [b')', ..] => {
                    self.at += 1;
                    return Some(Token::Close);
                }
                [b'\n', ..] => {
                    self.at += 1;
                    self.here_documents();
                    return Some(Token::End);
                }
                [b';', b';' | b'&', ..] => {
                    self.at += 2;
                    return Some(Token::Branch);
                }
                [b';' | b'&' | b'|', ..] => {
                    self.at += 1;
                    return Some(Token::End);
                }
                _ => {
                    let mut words = self.words();
                    let is_descriptor = matches!(&words[..], [word] if word.text.iter().all(u8::is_ascii_digit))
                        && matches!(self.rest(), [b'<' | b'>', ..]);
                    match words.pop().filter(|_| !is_descriptor) {
                        Some(word) if words.is_empty() => return Some(Token::Word(word)),
                        Some(word) => {
                            words.push(word);
                            return Some(Token::Words(words));
                        }
                        None => {}
                    }
                }
            }
        }
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Whether this comes next, which is then over.
    fn takes(&mut self, text: &[u8]) -> bool {
        let is_next = self.rest().starts_with(text);
        self.at += if is_next { text.len() } else { 0 };
        is_next
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.rest().first().copied();
        self.at += 1;
        byte
    }

    /// `>FILE`, `2>&1`, `<<END`: what it names is no word of the command.
    fn redirection(&mut self) {
        let is_here = !self.rest().starts_with(b"<<<") && self.takes(b"<<");
        if is_here {
            self.takes(b"-");
        } else {
            while matches!(self.rest(), [b'<' | b'>' | b'&' | b'|', ..]) {
                self.at += 1;
            }
        }
        while matches!(self.rest(), [b' ' | b'\t', ..]) {
            self.at += 1;
        }
        let target = self.words();
        if let (true, Some(word)) = (is_here, target.into_iter().next()) {
            self.delimiters.push(word.text);
        }
    }

    fn here_documents(&mut self) {
        for delimiter in std::mem::take(&mut self.delimiters) {
            while self.at < self.text.len() {
                let rest = self.rest();
                let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                let is_end = rest[..length].trim_ascii() == delimiter;
                self.at += length + 1;
                if is_end {
                    break;
                }
            }
        }
    }

    /// One word of the text, which may stand for several or none.
    fn words(&mut self) -> Vec<Word> {
        let (mut done, mut text, mut is_plain) = (Vec::new(), None::<Vec<u8>>, true);
        let mut is_quoted = false;
        while let Some(byte) = self.rest().first().copied() {
            if !is_quoted && b" \t\r\n;&|<>()".contains(&byte) {
                break;
            }
            self.at += 1;
            match byte {
                b'"' => {
                    is_quoted = !is_quoted;
                    text.get_or_insert_default();
                }
                b'\'' if !is_quoted => {
                    let rest = self.rest();
                    let end = rest.iter().position(|byte| *byte == b'\'').unwrap_or(rest.len());
                    text.get_or_insert_default().extend(&rest[..end]);
                    self.at += end + 1;
                }
                b'\\' => match self.byte() {
                    Some(b'\n') | None => {}
                    Some(escaped) => text.get_or_insert_default().push(escaped),
                },
                b'`' => {
                    let rest = self.rest();
                    self.at += rest.iter().position(|byte| *byte == b'`').unwrap_or(rest.len()) + 1;
                    text.get_or_insert_default().extend(b"$()");
                }
                b'$' => self.expansion(&mut done, &mut text),
                _ => {
                    text.get_or_insert_default().push(byte);
                    continue;
                }
            }
            is_plain = false;
        }
        done.extend(text);
        done.into_iter().map(|text| Word { text, is_plain }).collect()
    }

    /// What stands behind `$`.
    fn expansion(&mut self, done: &mut Vec<Vec<u8>>, text: &mut Option<Vec<u8>>) {
        let name = if self.takes(b"(") {
            self.skip_nested(b'(', b')');
            return text.get_or_insert_default().extend(b"$()");
        } else if self.takes(b"{") {
            let start = self.at;
            self.skip_nested(b'{', b'}');
            let inside = &self.text[start..self.at.min(self.text.len())];
            let is_special = inside.first().is_some_and(|byte| b"@*".contains(byte));
            let end = inside.iter().position(|byte| !is_of_name(byte)).unwrap_or(inside.len());
            inside[..if is_special { 1 } else { end }].to_vec()
        } else {
            let rest = self.rest();
            let length = match rest.first() {
                Some(byte) if byte.is_ascii_digit() || b"@*#?$!-".contains(byte) => 1,
                _ => rest.iter().position(|byte| !is_of_name(byte)).unwrap_or(rest.len()),
            };
            let name = rest[..length].to_vec();
            self.at += length;
            name
        };
        let number = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<usize>().ok());
        match (&*name, number) {
            (b"@" | b"*", _) => {
                for (place, parameter) in self.parameters.iter().skip(1).enumerate() {
                    if place > 0 {
                        done.extend(text.take());
                    }
                    text.get_or_insert_default().extend(parameter.as_bytes());
                }
            }
            (_, Some(number)) => {
                if let Some(parameter) = self.parameters.get(number) {
                    text.get_or_insert_default().extend(parameter.as_bytes());
                }
            }
            _ => text.get_or_insert_default().extend([b"$", &*name].concat()),
        }
    }

    /// Goes behind the end of what is open, over quotes and what is nested.
    fn skip_nested(&mut self, open: u8, close: u8) {
        let mut depth = 1;
        let mut quote = None;
        while let Some(byte) = self.byte() {
            match quote {
                _ if byte == b'\\' && quote != Some(b'\'') => self.at += 1,
                Some(mark) if byte == mark => quote = None,
                Some(_) => {}
                None if byte == b'"' || byte == b'\'' => quote = Some(byte),
                None if byte == open => depth += 1,
                None if byte == close => depth -= 1,
                None => {}
            }
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_has_an_end() {
        let pieces = [
            "a", " ", "$", "{", "}", "(", ")", "\"", "'", "`", "\\", "\n", ";", "<<", "&", "|", "case ", "#",
            "@", "1",
        ];
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            commands(text.as_bytes(), &["sh".into(), "x".into()]);
        }
    }

    #[test]
    fn commands_are_found_where_a_shell_looks_for_them() {
        let parameters = ["name", "nginx", "-g", "daemon off;"].map(OsString::from);
        for (text, expected) in [
            ("exec nginx -g x", &["nginx -g x"][..]),
            ("A=1 B='x y' exec -a web nginx", &["nginx"]),
            ("a && b||c;d|e & f\ng", &["a", "b", "c", "d", "e", "f", "g"]),
            ("ls /etc/php-fpm.d", &["ls /etc/php-fpm.d"]),
            ("echo 'a; php-fpm' \"b && php-fpm\" c\\;php-fpm", &["echo a; php-fpm b && php-fpm c;php-fpm"]),
            ("echo a # ; php-fpm\nb#c", &["echo a", "b#c"]),
            ("x=$(php-fpm -v; php-fpm) `php-fpm`; echo ${Y:-$(php-fpm)}", &["$()", "echo $Y"]),
            ("$(php-fpm)/x \"$(echo \")\"; php-fpm)\"", &["$()/x $()"]),
            ("exec \"$@\"", &["nginx -g daemon off;"]),
            ("exec \"$0\" \"${@}\" x", &["name nginx -g daemon off; x"]),
            ("exec $1 ${2} $7 $X ${Z-y}/w", &["nginx -g $X $Z/w"]),
            (
                "if ! a -x; then exec b; elif c; then { d; } else (e; f) fi",
                &["a -x", "b", "c", "d", "e", "f"],
            ),
            ("for x in nginx y; do run $x; done; while a; do b; done", &["run $x", "a", "b"]),
            ("case $1 in nginx) a;; (php-fpm|x) b ;; *) exec c;; esac; d", &["a", "b", "c", "d"]),
            ("(case x in nginx) a;; (y | z) (b);; esac; c); case in", &["a", "b", "c"]),
            ("case x in nginx) a;; php) b; esac; c", &["a", "b", "c"]),
            ("start() { nginx; }; start", &["nginx", "start"]),
            ("2>&1 >/dev/null a 2>>b <c &>d e <(nginx; x)", &["a e"]),
            (
                "cat <<EOF >x; a\nnginx\nEOF\nb <<-'E' && c\n\tnginx\n\tE\nd <<<nginx",
                &["cat", "a", "b", "c", "d"],
            ),
            ("command -v nginx && command nginx \\\n -t", &["nginx -t"]),
            ("'if' x; \"exec\" y", &["if x", "exec y"]),
            ("", &[]),
            ("\"unclosed; nginx", &["unclosed; nginx"]),
            ("$(unclosed", &["$()"]),
            ("a \\", &["a"]),
            (")(${<<", &["$"]),
        ] {
            let found: Vec<String> = commands(text.as_bytes(), &parameters)
                .iter()
                .map(|words| words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}

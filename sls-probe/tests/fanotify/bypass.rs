pub(crate) fn play(part: &str, _: &str) -> ! { panic!("no part is called {part}") }

fn main() {
    let drain = std::env::args().any(|a| a == "--drain");
    let mut c = procwire::Config::default();
    c.drain = drain;
    procwire::serve(procwire::Connection::stdio(), c).unwrap();
}

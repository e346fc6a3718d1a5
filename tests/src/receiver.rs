//! A receiver: an HTTP server on 127.0.0.1 that keeps what is posted to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver as Channel, Sender};

/// Serves until the test's process ends.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    posts: Channel<Post>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Post {
    pub path: String,
    pub body: Vec<u8>,
}

impl Receiver {
    pub fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("127.0.0.1 has a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, posts) = mpsc::channel();
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                // Whoever says something else hears nothing, and fails.
                let _ = answer(caller, &sender);
            }
        });
        Receiver { address, posts }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// What has been posted since the last time, and answered.
    pub fn received(&self) -> Vec<Post> {
        self.posts.try_iter().collect()
    }
}

fn answer(caller: TcpStream, posts: &Sender<Post>) -> io::Result<()> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let mut reader = BufReader::new(caller.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let request = lines.first().and_then(|line| line.strip_prefix("POST ")?.strip_suffix(" HTTP/1.1"));
    let path = request.ok_or_else(wrong)?.to_owned();
    let mut headers = lines.iter().filter_map(|line| line.split_once(": "));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.and_then(|(_, length)| length.parse().ok()).ok_or_else(wrong)?];
    reader.read_exact(&mut body)?;
    posts.send(Post { path: path.clone(), body }).map_err(|_| wrong())?;
    let mut caller = caller;
    write!(
        caller,
        "HTTP/1.1 201 Created\r\nLocation: {path}/1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

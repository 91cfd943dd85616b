//! The fields that an expression may ask of a request, and of which type they are. Must not know how they are found.

/// A field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `net.protocol`.
    Protocol,
    /// `tls.sni`.
    Sni,
    /// `http.method`.
    Method,
    /// `http.host`.
    Host,
    /// `http.path`.
    Path,
    /// `http.path.segments.len`.
    Segments,
    /// `http.path.segments.N` and `N_M`, both ends included.
    Segment(usize, usize),
    /// `http.headers.name`, in lower case with `_` for `-`.
    Header(String),
    /// `http.queries.name`.
    Query(String),
    /// `net.src.ip`.
    SourceIp,
    /// `net.src.port`.
    SourcePort,
    /// `net.dst.ip`.
    Ip,
    /// `net.dst.port`.
    Port,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Text,
    /// An integer.
    Number,
    /// An address.
    Ip,
}

impl Field {
    /// The field of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        if let Some(header) = name.strip_prefix("http.headers.") {
            return (!header.is_empty()).then(|| Field::Header(header.to_ascii_lowercase()));
        }
        if let Some(query) = name.strip_prefix("http.queries.") {
            return (!query.is_empty()).then(|| Field::Query(query.to_owned()));
        }
        if let Some(segment) = name.strip_prefix("http.path.segments.") {
            if segment == "len" {
                return Some(Field::Segments);
            }
            let (from, to) = segment.split_once('_').unwrap_or((segment, segment));
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            return (from <= to).then_some(Field::Segment(from, to));
        }
        Some(match name {
            "net.protocol" => Field::Protocol,
            "tls.sni" => Field::Sni,
            "http.method" => Field::Method,
            "http.host" => Field::Host,
            "http.path" => Field::Path,
            "net.src.ip" => Field::SourceIp,
            "net.dst.ip" => Field::Ip,
            "net.src.port" => Field::SourcePort,
            // The older name of the same.
            "net.dst.port" | "net.port" => Field::Port,
            _ => return None,
        })
    }

    /// What it holds.
    #[must_use]
    pub fn holds(&self) -> Type {
        match self {
            Field::Segments | Field::SourcePort | Field::Port => Type::Number,
            Field::SourceIp | Field::Ip => Type::Ip,
            _ => Type::Text,
        }
    }
}

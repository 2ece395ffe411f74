//! Why a request is refused because of its token, or for want of one.

/// The reason: a label in the metrics, and a text for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refusal {
    /// No token where one is required.
    Missing,
    /// More than one header, or not in the form of RFC 6750 (section 2.1), or a token not in the form of
    /// RFC 7519.
    Malformed,
    TooLong,
    /// An algorithm that is not accepted, or not the key's.
    Algorithm,
    /// Not an access token (RFC 9068, section 2.1).
    Type,
    /// A critical header, of which none is supported (RFC 7515, section 4.1.11).
    Critical,
    UnknownKey,
    Signature,
    Issuer,
    Audience,
    Expired,
    NotYetValid,
    Subject,
    /// The issuer's keys are not available at the moment.
    NoKeys,
    /// The token lacks a scope.
    Scope,
    /// Somebody else's.
    NotOwn,
}

impl Refusal {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Algorithm => "algorithm",
            Self::Type => "type",
            Self::Critical => "critical",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Subject => "subject",
            Self::NoKeys => "no_keys",
            Self::Scope => "scope",
            Self::NotOwn => "not_own",
        }
    }

    pub fn detail(self) -> &'static str {
        match self {
            Self::Missing => "send a bearer token in the header Authorization",
            Self::Malformed => "this is not one well-formed bearer token",
            Self::TooLong => "the token is longer than 16 KiB",
            Self::Algorithm => "the token is not signed by RS256, PS256, ES256 or EdDSA",
            Self::Type => "the token is not an access token: its typ is not at+jwt",
            Self::Critical => "the token has critical headers, of which none is understood",
            Self::UnknownKey => "the token is signed by a key that its issuer does not have",
            Self::Signature => "the token's signature is not valid",
            Self::Issuer => "the token is from another issuer",
            Self::Audience => "the token is for another audience",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::Subject => "the token's sub is not a text of 1 to 255 characters",
            Self::NoKeys => "the token cannot be verified: the issuer's keys are not available now",
            Self::Scope => "this needs a token with the scope wiki:admin",
            Self::NotOwn => "this is somebody else's",
        }
    }
}

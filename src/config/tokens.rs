//! Settings of JSON Web Tokens: which belong together, and which are missing.

use std::time::Duration;

use super::meaning::{Reader, duration, switch};
use super::raw::{Origin, Typed};
use super::settings::JWT_SECRET_VARIABLE;
use crate::tenants::jwt::{AdminTokens, KeysFrom, MIN_SECRET, Settings, TokenAlgorithm, looks_like_token};

impl Reader<'_> {
    /// `Some(None)` where tokens are not accepted, `None` where a problem was found.
    pub(super) fn jwt(&mut self) -> Option<Option<Settings>> {
        let secret = self.jwt_secret();
        let keys = self.jwt_keys();
        let issuer = self.optional("jwt_issuer", some_text);
        let audiences = self.many("jwt_audience", some_text);
        let algorithms = self.many("jwt_algorithms", |text| {
            text.parse::<TokenAlgorithm>().map_err(|()| {
                let names: Vec<&str> = TokenAlgorithm::ALL.iter().map(|algorithm| algorithm.name()).collect();
                format!("one of {} is right", names.join(", "))
            })
        });
        let leeway = self.value("jwt_leeway", Duration::from_secs(30), |text| within(text, 0..=600));
        let refresh = self.value("jwt_refresh", Duration::from_secs(300), |text| within(text, 10..=3600));
        let tenant_claim = self.value("jwt_tenant_claim", "tenant".to_owned(), some_text);
        let scope_claim = self.value("jwt_scope_claim", "scope".to_owned(), some_text);
        let models_claim = self.value("jwt_models_claim", "models".to_owned(), some_text);
        let admin = self.value("jwt_admin", AdminTokens::Refused, |text| {
            switch(text).map(|on| if on { AdminTokens::Accepted } else { AdminTokens::Refused })
        });
        let (secret, keys, issuer, audiences, algorithms) = (secret?, keys?, issuer?, audiences?, algorithms?);
        if keys.is_none() && secret.is_none() {
            let stray = self.raw.typed.iter().find(|(key, _)| key.starts_with("jwt_"));
            if let Some((key, Typed { origin, .. })) = stray {
                let text = format!("{key} has no effect without jwt_keys or {JWT_SECRET_VARIABLE}");
                let origin = origin.clone();
                self.raw.problem(origin, text);
                return None;
            }
            return Some(None);
        }
        let mut missing = |wanted: bool, key: &str, why: &str| {
            if !wanted {
                self.raw.problem(Origin::Default, format!("{key} is missing: {why}"));
            }
        };
        missing(issuer.is_some(), "jwt_issuer", "tokens of any issuer would be accepted");
        missing(!audiences.is_empty(), "jwt_audience", "tokens for other services would be accepted");
        let algorithms = self.fitting(algorithms, keys.is_some(), secret.is_some())?;
        if self.raw.admin_key.as_deref().is_some_and(looks_like_token) {
            let text = "the admin key has two dots like a token; choose another one where tokens are accepted";
            self.raw.problem(super::settings::ADMIN_KEY_VARIABLE, text);
        }
        Some(Some(Settings {
            issuer: issuer?,
            audiences,
            algorithms,
            keys,
            secret,
            leeway: leeway?,
            refresh: refresh?,
            tenant_claim: tenant_claim?,
            scope_claim: scope_claim?,
            models_claim: models_claim?,
            admin: admin?,
        }))
    }

    /// Each algorithm needs its kind of key; without a word all that have one are accepted.
    fn fitting(&mut self, asked: Vec<TokenAlgorithm>, has_public_keys: bool, has_secret: bool) -> Option<Vec<TokenAlgorithm>> {
        let usable = |algorithm: &TokenAlgorithm| match algorithm {
            TokenAlgorithm::Hs256 => has_secret,
            _ => has_public_keys,
        };
        if asked.is_empty() {
            return Some(TokenAlgorithm::ALL.into_iter().filter(usable).collect());
        }
        if let Some(useless) = asked.iter().find(|algorithm| !usable(algorithm)) {
            let needed = if *useless == TokenAlgorithm::Hs256 { JWT_SECRET_VARIABLE } else { "jwt_keys" };
            let (origin, text) = (self.origin_of(["jwt_algorithms"]), format!("{} needs {needed}", useless.name()));
            self.raw.problem(origin, format!("jwt_algorithms: {text}"));
            return None;
        }
        Some(asked)
    }

    fn jwt_secret(&mut self) -> Option<Option<Vec<u8>>> {
        let Some(secret) = self.raw.jwt_secret.take() else { return Some(None) };
        if secret.len() < MIN_SECRET {
            self.raw.problem(JWT_SECRET_VARIABLE, format!("is shorter than {MIN_SECRET} bytes"));
            return None;
        }
        Some(Some(secret.into_bytes()))
    }

    fn jwt_keys(&mut self) -> Option<Option<KeysFrom>> {
        let Some(typed) = self.raw.typed.get("jwt_keys").cloned() else { return Some(None) };
        let text = typed.values.first().map_or("", String::as_str);
        let found = if text.contains("://") {
            text.parse().map(KeysFrom::Url).map_err(|error: crate::outbound::NoAddress| error.to_string())
        } else {
            let path = self.path(&typed, text);
            if path.is_file() { Ok(KeysFrom::File(path)) } else { Err("there is no such file".to_owned()) }
        };
        match found {
            Ok(keys) => Some(Some(keys)),
            Err(reason) => {
                self.raw.problem(typed.origin, format!("jwt_keys = {text:?}: {reason}"));
                None
            }
        }
    }

    /// A setting with any number of values.
    fn many<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let Some(typed) = self.raw.typed.get(key).cloned() else { return Some(Vec::new()) };
        let mut values = Vec::with_capacity(typed.values.len());
        for text in &typed.values {
            match read(text) {
                Ok(value) => values.push(value),
                Err(reason) => self.raw.problem(&typed.origin, format!("{key}: {text:?}: {reason}")),
            }
        }
        (values.len() == typed.values.len()).then_some(values)
    }
}

fn some_text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("a text is right".to_owned()) } else { Ok(text.to_owned()) }
}

fn within(text: &str, range: std::ops::RangeInclusive<u64>) -> Result<Duration, String> {
    duration(text)
        .ok()
        .filter(|time| time.subsec_nanos() == 0 && range.contains(&time.as_secs()))
        .ok_or_else(|| format!("whole seconds from {} to {} are right", range.start(), range.end()))
}

//! What a registry has by a name: as Docker's index answers, or else from the list of its repositories.

use serde::Deserialize;
use ureq::http::Method;

use super::Repository;
use crate::registry::error::RegistryError;
use crate::registry::transport::patiently;

/// How many repositories of a list come at once.
const PAGE: usize = 1000;

/// One repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    pub name: String,
    /// In the words of whoever made it.
    pub description: String,
    pub star_count: u64,
    pub is_official: bool,
    pub is_automated: bool,
}

impl Repository {
    /// At most `limit` repositories of the registry whose names or descriptions have `term`. One that has
    /// no index is asked for all names.
    ///
    /// # Errors
    /// [`RegistryError`]: it answers neither.
    pub fn search(&self, term: &str, limit: usize) -> Result<Vec<Found>, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            results: Vec<Found>,
        }
        let query = format!("/v1/search?q={}&n={limit}", api::client::escape(term));
        let url = self.url_of(&query)?;
        let answer = patiently(|| {
            let response = self.fetch(&Method::GET, &url, &[])?;
            let response = self.fine(response, "/v1/search")?;
            self.json::<Answer>(response, "what was found")
        });
        match answer {
            Ok(answer) => Ok(answer.results.into_iter().take(limit).collect()),
            Err(RegistryError::NotFound { .. }) => self.named(term, limit),
            Err(error) => Err(error),
        }
    }

    fn named(&self, term: &str, limit: usize) -> Result<Vec<Found>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Option<Vec<String>>,
        }
        let url = self.url_of(&format!("/v2/_catalog?n={PAGE}"))?;
        let mut found = Vec::new();
        self.pages(url, "the list of repositories", |page: Page| {
            let names = page.repositories.unwrap_or_default().into_iter();
            let fitting = names.filter(|name| name.contains(term));
            found.extend(fitting.map(|name| Found {
                name,
                ..Found::default()
            }));
            found.len() < limit
        })?;
        found.truncate(limit);
        Ok(found)
    }
}

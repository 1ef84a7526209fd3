//! Changes of what is in service, and the answers of the response cache that go with them.

use super::cache::ResponseCache;
use super::{Gateway, Purge};
use crate::registry::{LoadRequest, Loaded, Owner, Promotion, RegistryError};

impl Gateway {
    /// Puts an adapter into service; answers of the version that it replaces are dropped.
    pub async fn load_adapter(&self, request: LoadRequest) -> Result<Loaded, RegistryError> {
        let owner = request.owner.clone();
        let loaded = self.0.catalog.load(request).await?;
        if let Some(old) = loaded.replaced.filter(|old| *old != loaded.number) {
            self.purge_cache(Purge::Adapter { owner, version: format!("{}@{old}", loaded.name) });
        }
        Ok(loaded)
    }

    /// Puts what a job has made behind a name; answers of the version that it replaces are dropped.
    pub async fn promote(&self, promotion: Promotion) -> Result<Loaded, RegistryError> {
        let owner = promotion.owner.clone();
        let loaded = self.0.catalog.promote(promotion).await?;
        if let Some(old) = loaded.replaced.filter(|old| *old != loaded.number) {
            self.purge_cache(Purge::Adapter { owner, version: format!("{}@{old}", loaded.name) });
        }
        Ok(loaded)
    }

    /// Takes an adapter out of service, and its answers with it.
    pub async fn unload_adapter(&self, owner: &Owner, name: &str, expected: Option<&str>) -> Result<(), RegistryError> {
        self.0.catalog.unload(owner, name, expected).await?;
        self.purge_cache(Purge::Adapter { owner: owner.clone(), version: name.to_owned() });
        Ok(())
    }

    /// Drops answers from the response cache.
    pub fn purge_cache(&self, purge: Purge) {
        if let Some(cache) = &self.0.cache {
            cache.purge(purge);
        }
    }

    /// Answers in the response cache, and their bytes.
    pub fn cache_size(&self) -> (u64, u64) {
        self.0.cache.as_ref().map_or((0, 0), ResponseCache::size)
    }
}

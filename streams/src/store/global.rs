//! Global tables: a whole topic in every instance, shared by its workers under one lock.

use super::Store;
use crate::codec::{Data, SharedCodec};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// A global table: the whole topic in every instance, shared by its workers.
pub(crate) struct GlobalStore<T>(Mutex<Store<T>>);

impl<T: Data> GlobalStore<T> {
    pub(crate) fn new(name: Arc<str>, codec: SharedCodec<T>) -> GlobalStore<T> {
        GlobalStore(Mutex::new(Store::new(name, codec, false)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Store<T>> {
        self.0.lock()
    }
}

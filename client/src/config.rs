//! How a client reaches its brokers: one struct, one default.
//!
//! The producer's and the consumer's settings stand beside them; all are made by the same macro, which writes the
//! fields, their defaults and the methods that set them.

use std::time::Duration;

/// Defines a struct of settings with a default for each and a method by value that sets it.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$doc:meta])* $field:ident: $type:ty = $default:expr,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $(pub(crate) $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $field(mut self, value: impl Into<$type>) -> Self {
                    self.$field = value.into();
                    self
                }
            )*
        }
    };
}
pub(crate) use settings;

settings! {
    /// Settings of the connections that a [`Client`](crate::Client) and all that is made from it use.
    ///
    /// ```
    /// # use kappa_client::ClientConfig;
    /// # use std::time::Duration;
    /// let config = ClientConfig::default().client_id("billing").request_timeout(Duration::from_secs(10));
    /// ```
    pub struct ClientConfig {
        /// What the client calls itself to the brokers. Default `kappa`.
        client_id: String = "kappa".to_owned(),
        /// How long one attempt to connect may take. Default 5 s.
        connect_timeout: Duration = Duration::from_secs(5),
        /// How long a broker may take to answer; the connection is closed then. Default 30 s.
        request_timeout: Duration = Duration::from_secs(30),
        /// Least wait before a retry or a reconnect; it doubles with each failure, with jitter. Default 50 ms.
        retry_backoff: Duration = Duration::from_millis(50),
        /// Longest wait before a retry or a reconnect. Default 1 s.
        retry_backoff_max: Duration = Duration::from_secs(1),
        /// How long a call that retries may take in all before it reports the last error. Default 60 s.
        api_timeout: Duration = Duration::from_secs(60),
        /// Age at which the leaders and partition counts of topics in use are asked for again. Default 5 min.
        metadata_age_max: Duration = Duration::from_secs(300),
    }
}

//! Prints what each contender made of it; see the library's page.
//!
//!     cargo run --release -p catena-example-tonic

use catena_example_tonic::{compare, table_head};

#[tokio::main]
async fn main() -> Result<(), tower::BoxError> {
    println!("{}", table_head());
    for report in compare(4_000).await? {
        println!("{report}");
    }
    Ok(())
}

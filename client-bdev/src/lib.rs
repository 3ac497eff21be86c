pub use chimaera_client as c;

module github.com/elastic/go-elasticsearch/v9

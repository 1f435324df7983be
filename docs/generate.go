// Package docs checks the documents against the code: the conformance table is
// made from the ledger and from the names of the tests, so that nobody can
// believe a row that no test proves.
package docs

//go:generate go test . -run TestConformanceTableIsCurrent -update

package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// findProofs returns for each ledger ID the tests that name it, "package.Test".
// A test names an ID in its function name (STS_3_1_07) or in a string of its
// body or of a table in the same file (STS-3.1-07). Comments and the messages
// of failing assertions do not count.
func findProofs(t *testing.T, root string, rows []row) map[string][]string {
	t.Helper()
	inName := map[string]string{} // STS_3_1_07 -> STS-3.1-07
	known := map[string]bool{}
	for _, r := range rows {
		inName[strings.NewReplacer("-", "_", ".", "_").Replace(r.ID)] = r.ID
		known[r.ID] = true
	}
	proofs := map[string][]string{}
	add := func(id, test string) {
		if !slices.Contains(proofs[id], test) {
			proofs[id] = append(proofs[id], test)
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "docs" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != "..") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		pkg, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, p := range proofsIn(file, inName, known) {
			add(p.id, filepath.ToSlash(pkg)+"."+p.test)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tests := range proofs {
		slices.Sort(tests)
	}
	return proofs
}

type proof struct{ id, test string }

var idInText = regexp.MustCompile(`[A-Z0-9]+-[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*`)

func proofsIn(file *ast.File, inName map[string]string, known map[string]bool) []proof {
	var found []proof
	tables := map[string][]string{} // IDs in the value of a package-level variable or helper, by its name
	var tests []*ast.FuncDecl
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && isTest(d.Name.Name) {
				tests = append(tests, d)
			} else {
				tables[d.Name.Name] = idsIn(d, known)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if v, ok := s.(*ast.ValueSpec); ok {
					for _, name := range v.Names {
						tables[name.Name] = idsIn(v, known)
					}
				}
			}
		}
	}
	for _, f := range tests {
		name := f.Name.Name
		for text, id := range inName {
			if i := strings.Index(name, text); i >= 0 && (i+len(text) == len(name) || name[i+len(text)] == '_') {
				found = append(found, proof{id, name})
			}
		}
		for _, id := range idsIn(f, known) {
			found = append(found, proof{id, name})
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if use, ok := n.(*ast.Ident); ok {
				for _, id := range tables[use.Name] {
					found = append(found, proof{id, name})
				}
			}
			return true
		})
	}
	return found
}

func isTest(name string) bool {
	return strings.HasPrefix(name, "Test") && name != "TestMain" || strings.HasPrefix(name, "Fuzz")
}

// idsIn lists the known IDs in the strings below n, those in the messages of
// assertions left out.
func idsIn(n ast.Node, known map[string]bool) (ids []string) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok {
				switch sel.Sel.Name {
				case "Error", "Errorf", "Fatal", "Fatalf", "Log", "Logf":
					return false
				}
			}
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(n.Value)
			if err != nil {
				return true
			}
			for _, id := range idInText.FindAllString(text, -1) {
				if known[id] {
					ids = append(ids, id)
				}
			}
		}
		return true
	})
	return ids
}

// The scanner itself: a name in a comment or in a message proves nothing.
func TestOnlyNamesOfTestsCount(t *testing.T) {
	src := `package x
var rows = []struct{ name string }{{"STS-3.1-03 delimiters"}}
// STS-3.1-04 in a comment
func TestSTS_3_1_01_Once(t *testing.T) { t.Errorf("STS-3.1-05") }
func TestTable(t *testing.T) { for _, r := range rows { t.Run(r.name, nil) } }
func TestSub(t *testing.T) { t.Run("STS-3.1-02 begins with v=STSv1", nil) }
func TestSTS_3_1_010(t *testing.T) {}
func helper() { _ = "STS-3.1-06" }
`
	file, err := parser.ParseFile(token.NewFileSet(), "x_test.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	known, inName := map[string]bool{}, map[string]string{}
	for _, id := range []string{"STS-3.1-01", "STS-3.1-02", "STS-3.1-03", "STS-3.1-04", "STS-3.1-05", "STS-3.1-06"} {
		known[id] = true
		inName[strings.NewReplacer("-", "_", ".", "_").Replace(id)] = id
	}
	got := proofsIn(file, inName, known)
	want := []proof{{"STS-3.1-01", "TestSTS_3_1_01_Once"}, {"STS-3.1-03", "TestTable"}, {"STS-3.1-02", "TestSub"}}
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

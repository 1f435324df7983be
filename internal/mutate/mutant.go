package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// A mutant is a file in which one place reads otherwise.
type mutant struct {
	file   string
	line   int
	key    string // file, function and what was changed: what equivalent.txt names
	source string // the whole file after the change
}

// mutants are all mutants of a file, each once, from top to bottom.
func mutants(name, source string) ([]mutant, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	m := &mutator{name: name, source: source, fset: fset, seen: map[string]bool{source: true}, keys: map[string]int{}}
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Body != nil {
			m.function = f.Name.Name
			m.body(f.Type, f.Body)
		}
	}
	slices.SortStableFunc(m.out, func(a, b mutant) int { return a.line - b.line })
	return m.out, nil
}

// A mutator collects the mutants of one file. It replaces text by position, so
// that lines stay where they are.
type mutator struct {
	name, source, function string
	fset                   *token.FileSet
	seen                   map[string]bool // sources: two ways to the same mutant count once
	keys                   map[string]int
	out                    []mutant
}

func (m *mutator) offset(p token.Pos) int { return m.fset.Position(p).Offset }

func (m *mutator) text(n ast.Node) string {
	return m.source[m.offset(n.Pos()):m.offset(n.End())]
}

// replace adds the mutant in which the text from one position to another is
// new. Lines that go are left empty.
func (m *mutator) replace(from, to token.Pos, new string) {
	i, j := m.offset(from), m.offset(to)
	old := m.source[i:j]
	source := m.source[:i] + new + strings.Repeat("\n", max(0, strings.Count(old, "\n")-strings.Count(new, "\n"))) + m.source[j:]
	if m.seen[source] {
		return
	}
	m.seen[source] = true
	key := fmt.Sprintf("%s %s: %s -> %s", m.name, m.function, oneLine(old), oneLine(new))
	m.keys[key]++
	if n := m.keys[key]; n > 1 {
		key += fmt.Sprintf(" (%d)", n)
	}
	m.out = append(m.out, mutant{m.name, m.fset.Position(from).Line, key, source})
}

func oneLine(s string) string {
	if s == "" {
		return "nothing"
	}
	return strings.Join(strings.Fields(s), " ")
}

// body changes everything in one function; a function within it returns for
// itself.
func (m *mutator) body(signature *ast.FuncType, body *ast.BlockStmt) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			m.body(n.Type, n.Body)
			return false
		case *ast.IfStmt:
			m.negate(n.Cond)
		case *ast.SwitchStmt:
			m.cases(n.Body, n.Tag == nil)
		case *ast.BinaryExpr:
			m.binary(n)
		case *ast.ReturnStmt:
			m.returned(signature, n)
		case *ast.ExprStmt, *ast.AssignStmt:
			m.drop(n)
		case *ast.Ident:
			m.constant(n)
		}
		return true
	})
}

// opposite has the operators that one change turns into each other.
var opposite = map[token.Token]token.Token{
	token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LSS: token.LEQ, token.LEQ: token.LSS,
	token.GTR: token.GEQ, token.GEQ: token.GTR,
}

// negate turns a condition round.
func (m *mutator) negate(e ast.Expr) {
	switch x := e.(type) {
	case *ast.BinaryExpr:
		if x.Op == token.EQL || x.Op == token.NEQ {
			m.binary(x)
			return
		}
	case *ast.UnaryExpr:
		if x.Op == token.NOT {
			m.replace(x.Pos(), x.End(), m.text(x.X))
			return
		}
	case *ast.Ident:
		if swapped(x.Name) != "" {
			m.constant(x)
			return
		}
	}
	m.replace(e.Pos(), e.End(), "!("+m.text(e)+")")
}

// cases leaves out each case, and each of several conditions of one; those of a
// switch without a tag are turned round too.
func (m *mutator) cases(body *ast.BlockStmt, conditions bool) {
	for _, s := range body.List {
		c := s.(*ast.CaseClause)
		m.replace(c.Pos(), c.End(), "")
		for i, e := range c.List {
			if conditions {
				m.negate(e)
			}
			switch {
			case len(c.List) == 1:
			case i == 0:
				m.replace(e.Pos(), c.List[1].Pos(), "")
			default:
				m.replace(c.List[i-1].End(), e.End(), "")
			}
		}
	}
}

// binary changes an operator, or leaves out one of its operands.
func (m *mutator) binary(x *ast.BinaryExpr) {
	switch x.Op {
	case token.LAND, token.LOR:
		m.negate(x.X)
		m.negate(x.Y)
		m.replace(x.Pos(), x.End(), m.text(x.X))
		m.replace(x.Pos(), x.End(), m.text(x.Y))
	case token.OR:
		m.replace(x.Pos(), x.End(), m.text(x.X))
		m.replace(x.Pos(), x.End(), m.text(x.Y))
	case token.AND_NOT:
		m.replace(x.Pos(), x.End(), m.text(x.X))
	default:
		if op, ok := opposite[x.Op]; ok {
			m.replace(x.Pos(), x.End(), m.text(x.X)+" "+op.String()+" "+m.text(x.Y))
		}
	}
}

// returned turns round each boolean that is returned, and leaves out a return
// that ends a function early.
func (m *mutator) returned(signature *ast.FuncType, r *ast.ReturnStmt) {
	if len(r.Results) == 0 {
		m.replace(r.Pos(), r.End(), "")
		return
	}
	for i, t := range resultTypes(signature) {
		if id, ok := t.(*ast.Ident); ok && id.Name == "bool" && i < len(r.Results) {
			m.negate(r.Results[i])
		}
	}
}

func resultTypes(f *ast.FuncType) (types []ast.Expr) {
	if f.Results == nil {
		return nil
	}
	for _, field := range f.Results.List {
		for range max(1, len(field.Names)) {
			types = append(types, field.Type)
		}
	}
	return types
}

// drop leaves out a statement: a call, or an assignment to what exists already.
func (m *mutator) drop(n ast.Node) {
	if a, ok := n.(*ast.AssignStmt); ok && a.Tok == token.DEFINE {
		return
	}
	m.replace(n.Pos(), n.End(), "")
}

func (m *mutator) constant(id *ast.Ident) {
	if s := swapped(id.Name); s != "" {
		m.replace(id.Pos(), id.End(), s)
	}
}

func swapped(name string) string {
	return map[string]string{"true": "false", "false": "true"}[name]
}
